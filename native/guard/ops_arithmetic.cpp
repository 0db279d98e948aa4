// Element by element, norms and sums.
#include <cstring>

#include "op_rule.h"
#include "shapes.h"

namespace rpcmesh::guard {

namespace {

constexpr int32_t UNARY_COUNT   = 22;
constexpr int32_t GLU_COUNT     = 7;
constexpr int32_t GLU_OAI       = 3;
constexpr int32_t GLU_CLAMP     = 6;
constexpr int32_t TRI_COUNT     = 4;

// The same type, or f32 from a half. Sources are floats: their rules say so.
bool keeps_or_widens(const Tensor & from, const Tensor & to) {
    return from.type == to.type || to.type == type::F32;
}

bool strides_rise(const Tensor & t) {
    return t.nb[0] <= t.nb[1] && t.nb[1] <= t.nb[2] && t.nb[2] <= t.nb[3];
}

Problem add_quantized(const Node & node) {
    const Tensor & a    = source(node, 0);
    const Tensor & b    = source(node, 1);
    const Tensor & self = *node.self;
    if (b.type != type::F32) {
        return bad_type("to a quantized tensor only f32 is added");
    }
    if (!same_shape(a, b) || !same_shape(a, self) || !has_packed_rows(a) || !has_packed_rows(b) || !strides_rise(self)) {
        return bad_shape("a quantized sum has three equal shapes");
    }
    return fine;
}

// ADD, SUB, MUL, DIV.
Problem binary(const Node & node) {
    const Tensor & a    = source(node, 0);
    const Tensor & b    = source(node, 1);
    const Tensor & self = *node.self;
    if (!keeps_or_widens(a, self) || (b.type != a.type && b.type != type::F32)) {
        return bad_type("no arithmetic between these types");
    }
    if (a.type == b.type && a.type != self.type) {
        return bad_type("the result has another type");
    }
    if (!same_shape(a, self) || !repeats(b, a)) {
        return bad_shape("source 1 does not repeat into source 0 and the result");
    }
    return has_packed_rows(a) && has_packed_rows(self) ? fine : bad_shape("source 0 or the result has loose rows");
}

Problem add(const Node & node) {
    return is_one_of(source(node, 0).type, quantized) ? add_quantized(node) : binary(node);
}

Problem add_one(const Node & node) {
    const Tensor & a    = source(node, 0);
    const Tensor & b    = source(node, 1);
    const Tensor & self = *node.self;
    if (a.type != self.type || (b.type != a.type && b.type != type::F32)) {
        return bad_type("no arithmetic between these types");
    }
    return is_scalar(b) && same_shape(a, self) && has_packed_rows(a) && has_packed_rows(self) ? fine :
                                                                                               bad_shape("not a tensor and a scalar");
}

Problem add_rows_by_id(const Node & node) {
    const Tensor & a   = source(node, 0);
    const Tensor & b   = source(node, 1);
    const Tensor & ids = source(node, 2);
    if (a.ne[0] != b.ne[0] || a.ne[1] != ids.ne[0] || a.ne[2] != ids.ne[1] || !same_shape(a, *node.self)) {
        return bad_shape("rows and ids do not fit");
    }
    return has_packed_rows(a) && has_packed_rows(b) && has_packed_rows(*node.self) ? fine : bad_shape("only packed rows are added");
}

// One element to one element.
Problem unary(const Node & node) {
    const Tensor & a = source(node, 0);
    if (!keeps_or_widens(a, *node.self)) {
        return bad_type("the result has another type");
    }
    return same_shape(a, *node.self) && has_packed_rows(a) && has_packed_rows(*node.self) ? fine :
                                                                                           bad_shape("not two equal shapes of packed rows");
}

Problem unary_by_number(const Node & node) {
    return uint32_t(parameter(node, 0)) < UNARY_COUNT ? unary(node) : bad_parameter("no such unary op");
}

Problem even_rows(const Node & node) {
    const Tensor & a = source(node, 0);
    if (a.type != node.self->type) {
        return bad_type("the result has another type");
    }
    return same_shape(a, *node.self) && has_even_rows(a) && has_even_rows(*node.self) ? fine :
                                                                                       bad_shape("not two equal shapes of even rows");
}

// The clamp finds row i at i * nb[1].
Problem clamp(const Node & node) {
    const Tensor & a = source(node, 0);
    if (a.type != node.self->type) {
        return bad_type("the result has another type");
    }
    const bool packed = has_packed_rows(a) && has_packed_rows(*node.self);
    return same_shape(a, *node.self) && packed && fits_by_rows(a) && fits_by_rows(*node.self) ? fine :
                                                                                               bad_shape("not two equal shapes of even rows");
}

Problem gated(const Node & node) {
    const Tensor & a    = source(node, 0);
    const Tensor & self = *node.self;
    const int32_t  op   = parameter(node, 0);
    if (uint32_t(op) >= GLU_COUNT) {
        return bad_parameter("no such gated op");
    }
    if (a.type != self.type || (op == GLU_OAI && a.type != type::F32) || (op == GLU_CLAMP && a.type == type::BF16)) {
        return bad_type("this gate has no such type");
    }
    if (!has_even_rows(a) || !has_even_rows(self)) {
        return bad_shape("only even rows are gated");
    }
    if (node.src[1] != nullptr) {
        const Tensor & b = source(node, 1);
        if (b.type != a.type) {
            return bad_type("gate and value have different types");
        }
        return same_shape(a, b) && same_shape(a, self) && has_even_rows(b) ? fine : bad_shape("gate, value and result do not fit");
    }
    return has_shape(self, a.ne[0] / 2, a.ne[1], a.ne[2], a.ne[3]) ? fine : bad_shape("the result is not half of its source");
}

Problem epsilon(const Node & node, size_t i) {
    const int32_t bits = parameter(node, i);
    float         eps  = 0;
    std::memcpy(&eps, &bits, sizeof(eps));
    return eps >= 0.0f ? fine : bad_parameter("epsilon is negative");
}

Problem norm(const Node & node) {
    if (!same_shape(source(node, 0), *node.self)) {
        return bad_shape("a norm keeps its shape");
    }
    return epsilon(node, 0);
}

// Fused with a product it is computed even where it is empty, so this is asked twice.
Problem rms_norm(const Node & node) {
    return has_packed_rows(source(node, 0)) ? norm(node) : bad_shape("the source has loose rows");
}

Problem group_norm(const Node & node) {
    const Tensor & a      = source(node, 0);
    const int32_t  groups = parameter(node, 0);
    if (groups <= 0 || uint32_t(groups) > a.ne[2]) {
        return bad_parameter("no such number of groups");
    }
    return same_shape(a, *node.self) && has_packed_rows(a) && has_packed_rows(*node.self) ? fine :
                                                                                           bad_shape("not two equal shapes of packed rows");
}

Problem scale(const Node & node) {
    const Tensor & a = source(node, 0);
    if (a.type != node.self->type) {
        return bad_type("the result has another type");
    }
    return same_shape(a, *node.self) && is_contiguous(a) && is_contiguous(*node.self) ? fine : bad_shape("not two equal contiguous shapes");
}

Problem sum(const Node & node) {
    const Tensor & a = source(node, 0);
    if (a.type != node.self->type) {
        return bad_type("the result has another type");
    }
    return is_scalar(*node.self) ? fine : bad_shape("a sum is one number");
}

// SUM_ROWS, MEAN.
Problem one_a_row(const Node & node) {
    const Tensor & a = source(node, 0);
    const bool packed = has_packed_rows(a) && has_packed_rows(*node.self);
    return has_shape(*node.self, 1, a.ne[1], a.ne[2], a.ne[3]) && packed ? fine : bad_shape("not one number a row");
}

Problem running_sum(const Node & node) {
    const Tensor & a = source(node, 0);
    return same_shape(a, *node.self) && has_packed_rows(a) && has_packed_rows(*node.self) ? fine :
                                                                                           bad_shape("not two equal shapes of packed rows");
}

Problem argmax(const Node & node) {
    const Tensor & a = source(node, 0);
    return is_matrix(a) && has_packed_rows(a) && has_shape(*node.self, a.ne[1], 1, 1, 1) ? fine : bad_shape("not one index a row");
}

// ggml counts the rows of more than two dimensions wrongly, and leaves the tensors.
Problem count_equal(const Node & node) {
    const Tensor & a = source(node, 0);
    return same_shape(a, source(node, 1)) && is_matrix(a) && is_scalar(*node.self) ? fine : bad_shape("not two equal matrices");
}

Problem fill(const Node & node) {
    const Tensor & a = source(node, 0);
    if (a.type != node.self->type) {
        return bad_type("the result has another type");
    }
    return same_shape(a, *node.self) && is_contiguous(a) && has_packed_rows(*node.self) ? fine : bad_shape("a fill keeps its shape");
}

Problem triangle(const Node & node) {
    const Tensor & a = source(node, 0);
    if (uint32_t(parameter(node, 0)) >= TRI_COUNT) {
        return bad_parameter("no such triangle");
    }
    return same_shape(a, *node.self) && a.ne[0] == a.ne[1] && is_contiguous(a) && has_packed_rows(*node.self) ?
               fine :
               bad_shape("not two equal squares");
}

constexpr Types i64   = types_of(type::I64);
constexpr Types halfs = f32 | f16;
constexpr Types scalable = f32 | types_of(type::BF16);

constexpr Rule rules[] = {
    // op                 n  result    sources               check
    { 2 /*ADD*/,          2, writable, { matrices, floats }, add },
    { 3 /*ADD_ID*/,       3, f32,      { f32, f32, i32 },    add_rows_by_id },
    { 4 /*ADD1*/,         2, floats,   { floats, floats },   add_one },
    { 6 /*SUB*/,          2, floats,   { floats, floats },   binary },
    { 7 /*MUL*/,          2, floats,   { floats, floats },   binary },
    { 8 /*DIV*/,          2, floats,   { floats, floats },   binary },
    { 9 /*SQR*/,          1, floats,   { floats },           unary },
    { 10 /*SQRT*/,        1, floats,   { floats },           unary },
    { 11 /*LOG*/,         1, floats,   { floats },           unary },
    { 12 /*SIN*/,         1, floats,   { floats },           unary },
    { 13 /*COS*/,         1, floats,   { floats },           unary },
    { 91 /*UNARY*/,       1, floats,   { floats },           unary_by_number },
    { 71 /*LEAKY_RELU*/,  1, halfs,    { halfs },            even_rows },
    { 50 /*CLAMP*/,       1, halfs,    { halfs },            clamp },
    { 100 /*GLU*/,        1, floats,   { floats, floats },   gated },
    { 24 /*NORM*/,        1, f32,      { f32 },              norm },
    { 25 /*RMS_NORM*/,    1, f32,      { f32 },              rms_norm, rms_norm },
    { 28 /*L2_NORM*/,     1, f32,      { f32 },              norm },
    { 27 /*GROUP_NORM*/,  1, f32,      { f32 },              group_norm },
    { 32 /*SCALE*/,       1, scalable, { scalable },         scale },
    { 14 /*SUM*/,         1, floats,   { floats },           sum },
    { 15 /*SUM_ROWS*/,    1, f32,      { f32 },              one_a_row },
    { 17 /*MEAN*/,        1, f32,      { f32 },              one_a_row },
    { 16 /*CUMSUM*/,      1, f32,      { f32 },              running_sum },
    { 18 /*ARGMAX*/,      1, i32,      { f32 },              argmax },
    { 19 /*COUNT_EQUAL*/, 2, i64,      { i32, i32 },         count_equal },
    { 73 /*FILL*/,        1, halfs,    { halfs },            fill },
    { 72 /*TRI*/,         1, f32,      { f32 },              triangle },
};

}  // namespace

Rules arithmetic_rules() {
    return { std::begin(rules), std::end(rules) };
}

}  // namespace rpcmesh::guard
