// What ggml says about shapes and strides, for tensors that passed check_type_and_shape. Nothing here knows an op.
#pragma once

#include <cstdint>

#include "tensor.h"

namespace rpcmesh::guard {

// Whether `part` divides `whole`; a part of 0 divides nothing (ggml would divide by it).
inline bool divides(uint64_t part, uint64_t whole) {
    return part == whole ? part != 0 : part == 1 || (part != 0 && whole % part == 0);
}

inline bool has_shape(const Tensor & t, uint64_t ne0, uint64_t ne1, uint64_t ne2, uint64_t ne3) {
    return t.ne[0] == ne0 && t.ne[1] == ne1 && t.ne[2] == ne2 && t.ne[3] == ne3;
}

inline bool same_shape(const Tensor & a, const Tensor & b) {
    return a.ne == b.ne;
}

// The strides of dimensions of one element are never used.
inline bool same_strides(const Tensor & a, const Tensor & b) {
    for (size_t i = 0; i < 4; ++i) {
        if (a.nb[i] != b.nb[i] && (a.ne[i] > 1 || b.ne[i] > 1)) {
            return false;
        }
    }
    return true;
}

// ggml_can_repeat: copies of `part` side by side make a tensor of `whole`'s shape.
inline bool repeats(const Tensor & part, const Tensor & whole) {
    if (is_empty(part)) {
        return is_empty(whole);
    }
    return divides(part.ne[0], whole.ne[0]) && divides(part.ne[1], whole.ne[1]) && divides(part.ne[2], whole.ne[2]) &&
           divides(part.ne[3], whole.ne[3]);
}

inline bool is_scalar(const Tensor & t) {
    return has_shape(t, 1, 1, 1, 1);
}

inline bool is_vector(const Tensor & t) {
    return t.ne[1] == 1 && t.ne[2] == 1 && t.ne[3] == 1;
}

inline bool is_matrix(const Tensor & t) {
    return t.ne[2] == 1 && t.ne[3] == 1;
}

// A row's elements lie side by side. As kernels assert it: also where a row is one element.
inline bool has_packed_rows(const Tensor & t) {
    return t.nb[0] == type_of(t.type).bytes || is_empty(t);
}

// Rows are packed, and dimensions 2 and 3 follow from nb[1] (ggml_is_contiguous_1).
inline bool has_even_rows(const Tensor & t) {
    if (!has_packed_rows(t)) {
        return false;
    }
    const Wide plane = Wide(t.ne[1]) * t.nb[1];
    return (t.ne[2] == 1 || t.nb[2] == plane) && (t.ne[3] == 1 || t.nb[3] == plane * t.ne[2]);
}

// Planes are packed, wherever they begin.
inline bool has_packed_planes(const Tensor & t) {
    return has_packed_rows(t) && (t.ne[1] <= 1 || t.nb[1] == row_bytes(t));
}

// Bytes of the tensor without gaps and without overlaps.
inline Wide packed_bytes(const Tensor & t) {
    return rows(t) * row_bytes(t);
}

// What a kernel touches that takes all elements as one run. Other strides give wrong numbers, but none from outside.
inline bool fits_as_one_run(const Tensor & t) {
    return packed_bytes(t) <= bytes_of(t);
}

// What a kernel touches that finds row i at i * nb[1].
inline bool fits_by_rows(const Tensor & t) {
    return is_empty(t) || (rows(t) - 1) * t.nb[1] + row_bytes(t) <= bytes_of(t);
}

}  // namespace rpcmesh::guard
