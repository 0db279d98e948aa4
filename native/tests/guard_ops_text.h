// Nodes in words: "f32[6,5] = MUL_MAT f32[4,6] f32[4,5]". A missing source is "-"; "@4,64" gives nb[0] and nb[1], and the
// others follow as in a contiguous tensor; parameters come last, as "2=8" or, in bits, "0=1.5".
#pragma once

#include <cstdlib>
#include <cstring>
#include <memory>
#include <sstream>
#include <string>
#include <vector>

#include "ops.h"
#include "shapes.h"

namespace ops_text {

using namespace rpcmesh::guard;

inline uint32_t type_named(const std::string & name) {
    for (uint32_t type = 0; type < TYPE_COUNT; ++type) {
        if (name == type_of(type).name) {
            return type;
        }
    }
    std::fprintf(stderr, "no type %s\n", name.c_str());
    std::abort();
}

inline uint32_t op_named(const std::string & name) {
    for (uint32_t op = 0; op < OP_COUNT; ++op) {
        if (name == name_of_op(op)) {
            return op;
        }
    }
    std::fprintf(stderr, "no op %s\n", name.c_str());
    std::abort();
}

inline std::vector<uint32_t> numbers(const std::string & text) {
    std::vector<uint32_t> values;
    std::istringstream    stream(text);
    for (std::string word; std::getline(stream, word, ',');) {
        values.push_back(static_cast<uint32_t>(std::stoul(word)));
    }
    return values;
}

inline Tensor tensor(const std::string & text) {
    const size_t open  = text.find('[');
    const size_t close = text.find(']');
    Tensor       t{};
    t.type = type_named(text.substr(0, open));
    t.ne   = { 1, 1, 1, 1 };
    size_t i = 0;
    for (uint32_t ne : numbers(text.substr(open + 1, close - open - 1))) {
        t.ne[i++] = ne;
    }
    const std::vector<uint32_t> given = close + 1 < text.size() ? numbers(text.substr(close + 2)) : std::vector<uint32_t>();
    t.nb[0] = given.empty() ? type_of(t.type).bytes : given[0];
    t.nb[1] = given.size() > 1 ? given[1] : static_cast<uint32_t>(row_bytes(t));
    for (size_t d = 2; d < 4; ++d) {
        t.nb[d] = given.size() > d ? given[d] : t.nb[d - 1] * t.ne[d - 1];
    }
    return t;
}

struct Parsed {
    std::vector<std::unique_ptr<Tensor>> tensors;
    Node                                 node{};
};

inline Parsed parse(const std::string & text) {
    std::istringstream stream(text);
    std::string        result, equals, op;
    stream >> result >> equals >> op;
    Parsed parsed;
    parsed.tensors.push_back(std::make_unique<Tensor>(tensor(result)));
    Tensor & self = *parsed.tensors.front();
    self.op       = op_named(op);
    size_t source = 0;
    for (std::string word; stream >> word;) {
        const size_t sign = word.find('=');
        if (sign != std::string::npos) {
            const std::string value = word.substr(sign + 1);
            int32_t &         slot  = self.op_params[std::stoul(word.substr(0, sign))];
            if (value.find('.') == std::string::npos) {
                slot = std::stoi(value);
            } else {
                const float number = std::stof(value);
                std::memcpy(&slot, &number, sizeof(slot));
            }
        } else if (word == "-") {
            ++source;
        } else {
            parsed.tensors.push_back(std::make_unique<Tensor>(tensor(word)));
            parsed.node.src[source++] = parsed.tensors.back().get();
        }
    }
    parsed.node.self = &self;
    return parsed;
}

}  // namespace ops_text
