// What a rule for one op is made of: sources, types, and a function that compares shapes and parameters.
#pragma once

#include <array>
#include <cstdint>

#include "ops.h"

namespace rpcmesh::guard {

// A set of ggml types, one bit each.
using Types = uint64_t;

namespace type {
constexpr uint32_t F32 = 0, F16 = 1, I8 = 24, I16 = 25, I32 = 26, I64 = 27, BF16 = 30;
}

template <typename... T> constexpr Types types_of(T... numbers) {
    return (Types(0) | ... | (Types(1) << numbers));
}

inline bool is_one_of(uint32_t type, Types types) {
    return (types >> type & 1) != 0;
}

constexpr Types f32    = types_of(type::F32);
constexpr Types f16    = types_of(type::F16);
constexpr Types i32    = types_of(type::I32);
constexpr Types floats = types_of(type::F32, type::F16, type::BF16);
constexpr Types any    = (Types(1) << TYPE_COUNT) - 1;

// Quantized types that can be read as floats (to_float in ggml.c), and those that can also be written (from_float in
// ggml-cpu.c). q8_1 and q8_K are neither: they live in a kernel's scratch.
constexpr Types quantized = types_of(2, 3, 6, 7, 8, 10, 11, 12, 13, 14, 16, 17, 18, 19, 20, 21, 22, 23, 29, 34, 35, 39, 40, 41, 42);
constexpr Types writable  = types_of(2, 3, 6, 7, 8, 10, 11, 12, 13, 14, 20, 23, 34, 35, 39, 40, 41, 42) | floats;
// Types with a dot product, so fit to be a matrix.
constexpr Types matrices  = quantized | floats;

// What is wrong, in words for the log; Refusal::none when nothing is.
struct Problem {
    Refusal      refusal = Refusal::none;
    const char * words   = nullptr;

    explicit operator bool() const { return refusal != Refusal::none; }
};

constexpr Problem fine = {};

constexpr Problem bad_shape(const char * words) {
    return { Refusal::op_shape, words };
}

constexpr Problem bad_type(const char * words) {
    return { Refusal::op_type, words };
}

constexpr Problem bad_parameter(const char * words) {
    return { Refusal::op_parameter, words };
}

using Check = Problem (*)(const Node & node);

// Sources below `required` must be there, the others that have types may be, and no more. `check` is asked where the
// result has elements: nothing is computed of an empty one. `plan` is asked always, for ops whose scratch ggml measures
// before it knows that. Both may be null.
struct Rule {
    uint32_t                       op;
    uint32_t                       required;
    Types                          self;
    std::array<Types, MAX_SOURCES> sources;
    Check                          check;
    Check                          plan = nullptr;
};

struct Rules {
    const Rule * begin;
    const Rule * end;
};

// One family a file.
Rules layout_rules();      // views, copies, rows, parts
Rules arithmetic_rules();  // element by element, norms, sums
Rules matrix_rules();      // products and triangles
Rules attention_rules();   // soft max, rope, attention, indices
Rules recurrent_rules();   // states that a token changes
Rules convolution_rules(); // and their patches
Rules image_rules();       // pools, pads, scales, windows

inline const Tensor & source(const Node & node, size_t i) {
    return *node.src[i];
}

inline int32_t parameter(const Node & node, size_t i) {
    return node.self->op_params[i];
}

}  // namespace rpcmesh::guard
