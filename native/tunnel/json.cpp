#include "json.h"

#include <cstdio>

namespace rpcmesh {

std::string json_quoted(std::string_view text) {
    std::string quoted = "\"";
    for (const char c : text) {
        const auto byte = static_cast<unsigned char>(c);
        if (c == '"' || c == '\\') {
            quoted += '\\';
            quoted += c;
        } else if (byte < 0x20 || byte >= 0x7f) {
            // A peer's bytes need not be UTF-8; each is shown as the code point of its own value.
            char escape[8];
            std::snprintf(escape, sizeof(escape), "\\u%04x", byte);
            quoted += escape;
        } else {
            quoted += c;
        }
    }
    return quoted + '"';
}

void Json::separate() {
    if (!first_) {
        text_ += ',';
    }
    first_ = false;
}

Json & Json::open(char bracket) {
    separate();
    text_ += bracket;
    first_ = true;
    return *this;
}

Json & Json::close(char bracket) {
    text_ += bracket;
    first_ = false;
    return *this;
}

Json & Json::key(std::string_view name) {
    separate();
    text_ += json_quoted(name);
    text_ += ':';
    first_ = true;
    return *this;
}

Json & Json::value(std::string_view text) {
    separate();
    text_ += json_quoted(text);
    return *this;
}

Json & Json::value(uint64_t number) {
    separate();
    text_ += std::to_string(number);
    return *this;
}

Json & Json::value(double number) {
    separate();
    char digits[32];
    std::snprintf(digits, sizeof(digits), "%.3f", number);
    text_ += digits;
    return *this;
}

Json & Json::null() {
    separate();
    text_ += "null";
    return *this;
}

}  // namespace rpcmesh
