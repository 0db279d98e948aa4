// Views, copies, rows and parts of tensors.
#include "op_rule.h"
#include "shapes.h"

namespace rpcmesh::guard {

namespace {

// ggml_reshape asserts that its source is contiguous; a view stands where it says, which the graph's check looks at.
Problem reshape(const Node & node) {
    const Tensor & a = source(node, 0);
    if (node.self->type != a.type) {
        return bad_type("a reshape keeps its type");
    }
    if (elements(*node.self) != elements(a)) {
        return bad_shape("a reshape keeps its elements");
    }
    return is_contiguous(a) ? fine : bad_shape("only a contiguous tensor has another shape");
}

Problem view(const Node & node) {
    return node.self->type == source(node, 0).type ? fine : bad_type("a view keeps its type");
}

Problem permute(const Node & node) {
    const Tensor & a    = source(node, 0);
    uint32_t       seen = 0;
    for (size_t i = 0; i < 4; ++i) {
        const uint32_t axis = static_cast<uint32_t>(parameter(node, i));
        if (axis >= 4 || (seen >> axis & 1) != 0) {
            return bad_parameter("the axes are not a permutation");
        }
        seen |= 1u << axis;
        if (node.self->ne[axis] != a.ne[i] || node.self->nb[axis] != a.nb[i]) {
            return bad_shape("not the source's dimensions, permuted");
        }
    }
    return node.self->type == a.type ? fine : bad_type("a permuted view keeps its type");
}

Problem transpose(const Node & node) {
    const Tensor & a    = source(node, 0);
    const Tensor & self = *node.self;
    if (self.type != a.type) {
        return bad_type("a transposed view keeps its type");
    }
    const bool crossed = self.nb[0] == a.nb[1] && self.nb[1] == a.nb[0] && self.nb[2] == a.nb[2] && self.nb[3] == a.nb[3];
    return crossed && has_shape(self, a.ne[1], a.ne[0], a.ne[2], a.ne[3]) ? fine : bad_shape("not the source, transposed");
}

// What ggml_compute_forward_dup can turn into what.
bool converts(uint32_t from, uint32_t to) {
    if (from == to) {
        return true;
    }
    if (is_one_of(from, floats)) {
        return is_one_of(to, writable) || (from == type::F32 && to == type::I32);
    }
    return to == type::F32 && (from == type::I32 || is_one_of(from, quantized));
}

Problem copy_into(const Node & node) {
    const Tensor & a    = source(node, 0);
    const Tensor & self = *node.self;
    if (elements(self) != elements(a)) {
        return bad_shape("a copy has as many elements as its source");
    }
    if (!is_one_of(self.type, quantized)) {
        return fine;
    }
    if (self.type == a.type) {
        // Where only the destination is contiguous, ggml counts a row of blocks as a row of elements.
        const bool by_rows = same_shape(a, self) && has_packed_rows(a) && has_packed_rows(self);
        return by_rows || is_contiguous(a) || !is_contiguous(self) ? fine : bad_shape("the blocks are not copied by rows");
    }
    // The row in front of the quantizer is as long as the destination's; a longer source would leave it.
    if (a.ne[0] > self.ne[0] || a.ne[0] % type_of(self.type).block != 0) {
        return bad_shape("the source's rows do not fit the quantized rows");
    }
    // Only GPUs quantize into a tensor with gaps, as a shift of a quantized cache does.
    const bool laid_out = is_contiguous(self) || (same_shape(a, self) && has_packed_rows(self));
    return laid_out && has_packed_rows(a) ? fine : bad_shape("only packed rows are quantized");
}

// CPY's second source is its destination: its strides are used with the node's address.
Problem copy(const Node & node) {
    const Tensor & a    = source(node, 0);
    const Tensor & to   = source(node, 1);
    const Tensor & self = *node.self;
    if (!converts(a.type, self.type)) {
        return bad_type("no copy between these types");
    }
    if (to.type != self.type || !same_shape(to, self) || !same_strides(to, self)) {
        return bad_shape("source 1 is not laid out as the copy");
    }
    if (is_one_of(a.type, quantized) && self.type == type::F32) {
        const uint32_t block = type_of(a.type).block;
        if (!has_packed_rows(self) || !has_packed_rows(a) || (self.ne[0] % block != 0 && !is_contiguous(self))) {
            return bad_shape("the blocks do not fit the copy's rows");
        }
    }
    return copy_into(node);
}

Problem duplicate(const Node & node) {
    if (node.self->type != source(node, 0).type) {
        return bad_type("a duplicate keeps its type");
    }
    return copy_into(node);
}

Problem concat(const Node & node) {
    const Tensor & a    = source(node, 0);
    const Tensor & b    = source(node, 1);
    const Tensor & self = *node.self;
    const uint32_t axis = static_cast<uint32_t>(parameter(node, 0));
    if (axis >= 4) {
        return bad_parameter("no such axis");
    }
    if (a.type != b.type || a.type != self.type) {
        return bad_type("the parts have different types");
    }
    for (size_t i = 0; i < 4; ++i) {
        const bool joined = i == axis ? uint64_t(a.ne[i]) + b.ne[i] == self.ne[i] : a.ne[i] == b.ne[i] && a.ne[i] == self.ne[i];
        if (!joined) {
            return bad_shape("the parts do not make the whole");
        }
    }
    // Elements of these types are moved one by one, all others in rows.
    constexpr Types by_element = floats | i32 | types_of(type::I8, type::I16);
    if (!is_one_of(a.type, by_element) && !(has_packed_rows(a) && has_packed_rows(b) && has_packed_rows(self))) {
        return bad_shape("only packed rows are joined");
    }
    return fine;
}

Problem repeat(const Node & node) {
    const Tensor & a = source(node, 0);
    if (a.type != node.self->type) {
        return bad_type("a repeat keeps its type");
    }
    if (!repeats(a, *node.self)) {
        return bad_shape("source 0 does not repeat into the result");
    }
    return has_packed_rows(a) && has_packed_rows(*node.self) ? fine : bad_shape("only packed rows are repeated");
}

Problem get_rows(const Node & node) {
    const Tensor & a    = source(node, 0);
    const Tensor & b    = source(node, 1);
    const Tensor & self = *node.self;
    if (self.type != (a.type == type::I32 ? type::I32 : type::F32)) {
        return bad_type("rows are read as f32, or i32 from i32");
    }
    if (a.ne[2] != b.ne[1] || a.ne[3] != b.ne[2] || b.ne[3] != 1 || !has_shape(self, a.ne[0], b.ne[0], b.ne[1], b.ne[2])) {
        return bad_shape("rows, indices and result do not fit");
    }
    if (a.ne[1] == 0) {
        return bad_shape("there are no rows");
    }
    return has_packed_rows(a) && has_packed_rows(self) ? fine : bad_shape("only packed rows are read");
}

Problem set_rows(const Node & node) {
    const Tensor & b    = source(node, 0);
    const Tensor & c    = source(node, 1);
    const Tensor & self = *node.self;
    const Tensor & into = node.src[2] == nullptr ? self : source(node, 2);
    if (b.type == type::F16 && self.type != type::F16 && !is_one_of(self.type, writable)) {
        return bad_type("f16 rows are written to no such type");
    }
    if (self.ne[0] != b.ne[0] || self.ne[2] != b.ne[2] || self.ne[3] != b.ne[3] || b.ne[1] != c.ne[0] || c.ne[3] != 1) {
        return bad_shape("rows, indices and destination do not fit");
    }
    if (!is_empty(b) && (!divides(c.ne[1], b.ne[2]) || !divides(c.ne[2], b.ne[3]))) {
        return bad_shape("the indices do not repeat over the rows");
    }
    if (into.type != self.type || !same_shape(into, self) || !same_strides(into, self)) {
        return bad_shape("source 2 is not laid out as the destination");
    }
    return has_packed_rows(self) && has_packed_rows(b) ? fine : bad_shape("only packed rows are written");
}

// SET and ACC: op_params hold nb1, nb2, nb3 and the offset of the part that source 1 changes.
Problem set_part(const Node & node) {
    const Tensor & a    = source(node, 0);
    const Tensor & b    = source(node, 1);
    const Tensor & self = *node.self;
    if (a.type != self.type || b.type != self.type) {
        return bad_type("the part has another type");
    }
    if (!same_shape(a, self) || !is_contiguous(a) || !is_contiguous(self) || elements(b) > elements(a) ||
        b.nb[0] != type_of(b.type).bytes) {
        return bad_shape("the part does not fit the whole");
    }
    Wide end = row_bytes(b);
    for (size_t i = 0; i < 4; ++i) {
        if (parameter(node, i) < 0) {
            return bad_parameter("a stride or the offset is negative");
        }
        end += Wide(static_cast<uint32_t>(parameter(node, i))) * (i == 3 ? 1 : b.ne[i + 1] == 0 ? 0 : b.ne[i + 1] - 1);
    }
    return end <= bytes_of(self) ? fine : bad_parameter("the part leaves the whole");
}

constexpr Types i64        = types_of(type::I64);
constexpr Types repeatable = floats | i32 | types_of(type::I16);
constexpr Types settable   = f32 | i32;

constexpr Rule rules[] = {
    // op               n  result          sources                                   check
    { 0 /*NONE*/,       0, any,            {},                                       nullptr },
    { 36 /*RESHAPE*/,   1, any,            { any },                                  reshape },
    { 37 /*VIEW*/,      1, any,            { any },                                  view },
    { 38 /*PERMUTE*/,   1, any,            { any },                                  permute },
    { 39 /*TRANSPOSE*/, 1, any,            { any },                                  transpose },
    { 1 /*DUP*/,        1, any,            { any },                                  duplicate },
    { 34 /*CPY*/,       2, any,            { any, any },                             copy },
    { 35 /*CONT*/,      1, any,            { any },                                  duplicate },
    { 22 /*CONCAT*/,    2, any,            { any, any },                             concat },
    { 20 /*REPEAT*/,    1, repeatable,     { repeatable },                           repeat },
    { 40 /*GET_ROWS*/,  2, settable,       { matrices | i32, i32 },                  get_rows },
    { 42 /*SET_ROWS*/,  2, writable | i32, { f32 | f16, i32 | i64, writable | i32 }, set_rows },
    { 33 /*SET*/,       2, settable,       { settable, settable },                   set_part },
    { 5 /*ACC*/,        2, f32,            { f32, f32 },                             set_part },
};

}  // namespace

Rules layout_rules() {
    return { std::begin(rules), std::end(rules) };
}

}  // namespace rpcmesh::guard
