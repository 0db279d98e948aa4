// A tensor as it stands on the wire (rpc_tensor of protocol 7.0.0, 296 bytes, little-endian, packed), and what its
// type and shape amount to. Sizes are computed in 128 bits, as ggml_nbytes computes them, and never wrap.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "refusal.h"

namespace rpcmesh::guard {

constexpr size_t TENSOR_BYTES = 296;
constexpr size_t TENSOR_BUFFER_OFFSET = 12;
constexpr size_t TENSOR_DATA_OFFSET   = 220;
constexpr int    MAX_SOURCES  = 10;
constexpr int    TYPE_COUNT   = 43;

__extension__ typedef unsigned __int128 Wide;

// What a tensor is. Two cache lines: a graph's tensors are looked at more than once.
struct Tensor {
    uint32_t                type;
    uint32_t                op;
    std::array<uint32_t, 4> ne;
    std::array<uint32_t, 4> nb;
    std::array<int32_t, 16> op_params;
    uint64_t                buffer;
    uint64_t                data;
};

// What it refers to, by ids; 0: nothing.
struct References {
    uint64_t                          id;  // its own
    std::array<uint64_t, MAX_SOURCES> src;
    uint32_t                          slots;  // of `src`, up to the last that is not 0
    uint64_t                          view_src;
    uint64_t                          view_offs;
};

// In place, as a graph's tensors are read: copying one right after it was written would wait for all of its fields.
void       read_tensor(const uint8_t * bytes, Tensor & tensor);
References read_references(const uint8_t * bytes);

inline Tensor read_tensor(const uint8_t * bytes) {
    Tensor tensor;
    read_tensor(bytes, tensor);
    return tensor;
}

// A ggml type: elements a block, bytes a block. 0 bytes: there is no such type (any more).
struct Type {
    const char * name;
    uint32_t     block;
    uint32_t     bytes;
};

const Type & type_of(uint32_t type);  // for type >= TYPE_COUNT one with 0 bytes

// Elements, rows (ne1*ne2*ne3), the bytes that ggml_nbytes would give, those of one contiguous row (ggml_row_size).
Wide bytes_of(const Tensor & tensor);
Wide row_bytes(const Tensor & tensor);
bool is_contiguous(const Tensor & tensor);

inline Wide rows(const Tensor & tensor) {
    return Wide(uint64_t(tensor.ne[1]) * tensor.ne[2]) * tensor.ne[3];
}

inline Wide elements(const Tensor & tensor) {
    return rows(tensor) * tensor.ne[0];
}

inline bool is_empty(const Tensor & tensor) {
    return tensor.ne[0] == 0 || tensor.ne[1] == 0 || tensor.ne[2] == 0 || tensor.ne[3] == 0;
}

// Type known, ne[0] a multiple of the block, no dimension beyond INT32_MAX (kernels count in ints), nb[0] at least the
// bytes of a block, elements within `MAX_ELEMENTS`. Dimensions of 0 pass: such a tensor is empty.
Finding check_type_and_shape(const Tensor & tensor);

constexpr uint64_t MAX_ELEMENTS = uint64_t(1) << 40;

}  // namespace rpcmesh::guard
