// Writes JSON text, nothing more: commas and escapes are right by construction. It never reads any.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace rpcmesh {

class Json {
public:
    Json & open_object() { return open('{'); }
    Json & close_object() { return close('}'); }
    Json & open_array() { return open('['); }
    Json & close_array() { return close(']'); }

    Json & key(std::string_view name);
    Json & value(std::string_view text);
    Json & value(const char * text) { return value(std::string_view(text)); }
    Json & value(uint64_t number);
    Json & value(double number);
    Json & null();

    template <typename T> Json & field(std::string_view name, const T & content) {
        key(name);
        return value(content);
    }

    const std::string & text() const { return text_; }

private:
    Json & open(char bracket);
    Json & close(char bracket);
    void   separate();

    std::string text_;
    bool        first_ = true;
};

// `text` between quotes. Control characters, quotes, backslashes and bytes that are not ASCII are escaped.
std::string json_quoted(std::string_view text);

}  // namespace rpcmesh
