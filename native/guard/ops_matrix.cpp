// Products of matrices, diagonals and triangles.
#include "op_rule.h"
#include "shapes.h"

namespace rpcmesh::guard {

namespace {

constexpr int32_t HINT_HADAMARD = 1;
// MUL_MAT_ID keeps 8 bytes of scratch for each expert and id; real models need some 10 million of them.
constexpr uint64_t MAX_EXPERT_IDS = uint64_t(1) << 30;

// The type that the CPU's dot product wants on the other side (vec_dot_type in ggml-cpu.c).
uint32_t partner_of(uint32_t type) {
    constexpr uint32_t Q8_0 = 8, Q8_1 = 9, Q8_K = 15;
    if (is_one_of(type, floats)) {
        return type;
    }
    if (is_one_of(type, types_of(3, 7))) {
        return Q8_1;
    }
    return type_of(type).block == 256 ? Q8_K : Q8_0;
}

bool dot_product_exists(const Tensor & a, const Tensor & b) {
    return is_one_of(b.type, floats) || b.type == partner_of(a.type);
}

Problem packed_factors(const Node & node) {
    const Tensor & a    = source(node, 0);
    const Tensor & self = *node.self;
    if (!has_packed_rows(a) || !has_packed_rows(source(node, 1)) || !has_packed_rows(self)) {
        return bad_shape("a factor or the product has loose rows");
    }
    return self.nb[0] <= self.nb[1] && self.nb[1] <= self.nb[2] && self.nb[2] <= self.nb[3] ? fine : bad_shape("the product is permuted");
}

Problem mul_mat(const Node & node) {
    const Tensor & a    = source(node, 0);
    const Tensor & b    = source(node, 1);
    const int32_t  hint = parameter(node, 1);
    if (!dot_product_exists(a, b)) {
        return bad_type("no product of these types");
    }
    if (a.ne[0] != b.ne[0] || !divides(a.ne[2], b.ne[2]) || !divides(a.ne[3], b.ne[3])) {
        return bad_shape("the factors do not fit");
    }
    if (!has_shape(*node.self, a.ne[1], b.ne[1], b.ne[2], b.ne[3])) {
        return bad_shape("the product does not fit its factors");
    }
    if (hint != 0 && hint != HINT_HADAMARD) {
        return bad_parameter("no such hint");
    }
    // A Hadamard transform never looks at source 0 and writes as many numbers as source 1 has.
    if (hint == HINT_HADAMARD && (a.ne[0] != a.ne[1] || (b.ne[0] & (b.ne[0] - 1)) != 0 || b.type == type::BF16)) {
        return bad_parameter("not a Hadamard matrix");
    }
    return packed_factors(node);
}

Problem mul_mat_by_id(const Node & node) {
    const Tensor & a   = source(node, 0);
    const Tensor & b   = source(node, 1);
    const Tensor & ids = source(node, 2);
    if (!dot_product_exists(a, b)) {
        return bad_type("no product of these types");
    }
    if (a.ne[3] != 1 || b.ne[3] != 1 || !is_matrix(ids) || ids.ne[1] != b.ne[2] || a.ne[0] != b.ne[0] || !divides(b.ne[1], ids.ne[0])) {
        return bad_shape("experts, factors and ids do not fit");
    }
    if (!has_shape(*node.self, a.ne[1], ids.ne[0], b.ne[2], 1)) {
        return bad_shape("the product does not fit its factors");
    }
    return packed_factors(node);
}

Problem measure_ids(const Node & node) {
    const Wide places = Wide(source(node, 0).ne[2]) * source(node, 2).ne[0] * source(node, 2).ne[1];
    return places <= MAX_EXPERT_IDS ? fine : bad_shape("too many ids for so many experts");
}

Problem outer_product(const Node & node) {
    const Tensor & a    = source(node, 0);
    const Tensor & b    = source(node, 1);
    const Tensor & self = *node.self;
    if (a.ne[1] != b.ne[1] || !divides(a.ne[2], b.ne[2]) || !divides(a.ne[3], b.ne[3])) {
        return bad_shape("the factors do not fit");
    }
    // Only f32 factors are broadcast.
    if (a.type != type::F32 && (a.ne[2] != b.ne[2] || a.ne[3] != b.ne[3])) {
        return bad_shape("the factors do not fit");
    }
    if (!has_shape(self, a.ne[0], b.ne[0], b.ne[2], b.ne[3])) {
        return bad_shape("the product does not fit its factors");
    }
    // The product is set to zero as one run.
    return has_packed_rows(a) && is_contiguous(self) ? fine : bad_shape("a factor or the product has gaps");
}

Problem diagonal(const Node & node) {
    const Tensor & a = source(node, 0);
    if (a.ne[1] != 1 || !has_shape(*node.self, a.ne[0], a.ne[0], a.ne[2], a.ne[3])) {
        return bad_shape("not a row and its diagonal matrix");
    }
    return has_packed_rows(a) && has_packed_rows(*node.self) ? fine : bad_shape("only packed rows are a diagonal");
}

// DIAG_MASK_INF, DIAG_MASK_ZERO: the planes are found as if there were two dimensions and their repetitions.
Problem diagonal_mask(const Node & node) {
    const Tensor & a    = source(node, 0);
    const Tensor & self = *node.self;
    if (parameter(node, 0) < 0) {
        return bad_parameter("a negative past");
    }
    return same_shape(a, self) && is_contiguous(a) && is_contiguous(self) ? fine : bad_shape("not two equal contiguous shapes");
}

Problem solve_triangle(const Node & node) {
    const Tensor & a    = source(node, 0);
    const Tensor & b    = source(node, 1);
    const Tensor & self = *node.self;
    if (a.ne[0] != a.ne[1] || a.ne[1] != b.ne[1] || a.ne[2] != b.ne[2] || a.ne[3] != b.ne[3] || !same_shape(b, self)) {
        return bad_shape("not a square system");
    }
    return is_contiguous(a) && is_contiguous(b) && is_contiguous(self) ? fine : bad_shape("only contiguous systems are solved");
}

constexpr Rule rules[] = {
    // op                    n  result sources                         check
    { 29 /*MUL_MAT*/,        2, f32,   { matrices, any },              mul_mat },
    { 30 /*MUL_MAT_ID*/,     3, f32,   { matrices, any, i32 },         mul_mat_by_id, measure_ids },
    { 31 /*OUT_PROD*/,       2, f32,   { f32 | f16 | quantized, f32 }, outer_product },
    { 43 /*DIAG*/,           1, f32,   { f32 },                        diagonal },
    { 44 /*DIAG_MASK_INF*/,  1, f32,   { f32 },                        diagonal_mask },
    { 45 /*DIAG_MASK_ZERO*/, 1, f32,   { f32 },                        diagonal_mask },
    { 85 /*SOLVE_TRI*/,      2, f32,   { f32, f32 },                   solve_triangle },
};

}  // namespace

Rules matrix_rules() {
    return { std::begin(rules), std::end(rules) };
}

}  // namespace rpcmesh::guard
