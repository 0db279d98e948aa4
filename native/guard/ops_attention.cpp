// Soft max, rotary positions, attention, and the sorting of scores.
#include "op_rule.h"
#include "shapes.h"

namespace rpcmesh::guard {

namespace {

constexpr int32_t ROPE_NORMAL = 0;
constexpr int32_t ROPE_NEOX   = 2;
constexpr int32_t ROPE_MROPE  = 8;
constexpr int32_t ROPE_VISION = 24;
constexpr int32_t ROPE_IMROPE = 40;
// ggml reads a frequency factor for every pair of a row, though only those of rotated pairs have to be there; partial
// rotation with factors (Phi-4) is real, so what is read past them is only kept short.
constexpr uint32_t MAX_HALF_ROTATED_ROW = 2048;
constexpr int32_t  SORT_ORDERS = 2;
constexpr int32_t  PREC_DEFAULT = 0;
constexpr int32_t  PREC_F32 = 10;

Problem soft_max(const Node & node) {
    const Tensor & a = source(node, 0);
    if (!same_shape(a, *node.self) || !is_contiguous(a) || !is_contiguous(*node.self)) {
        return bad_shape("not two equal contiguous shapes");
    }
    if (node.src[1] != nullptr) {
        const Tensor & mask = source(node, 1);
        if (!is_contiguous(mask) || mask.ne[0] != a.ne[0] || mask.ne[1] < a.ne[1]) {
            return bad_shape("the mask does not fit");
        }
        if (!divides(mask.ne[2], a.ne[2]) || !divides(mask.ne[3], a.ne[3])) {
            return bad_shape("the mask does not repeat");
        }
    }
    if (node.src[2] != nullptr && (source(node, 2).ne[0] != a.ne[2] || !has_packed_rows(source(node, 2)))) {
        return bad_shape("the sinks do not fit the heads");
    }
    return fine;
}

Problem rope_parameters(const Node & node, uint32_t row) {
    const int32_t dims   = parameter(node, 1);
    const int32_t mode   = parameter(node, 2);
    const int32_t offset = parameter(node, 15);
    if (dims <= 0 || dims % 2 != 0 || offset < 0 || offset % 2 != 0 || uint64_t(dims) + uint64_t(offset) > row || row % 2 != 0) {
        return bad_parameter("the rotated dimensions are not in the row");
    }
    switch (mode) {
        case ROPE_NORMAL:
        case ROPE_NEOX:
            return fine;
        case ROPE_VISION:
            if (uint32_t(dims) != row / 2 || offset != 0) {
                return bad_parameter("vision rotates half of a row");
            }
            break;
        case ROPE_MROPE:
        case ROPE_IMROPE:
            break;
        default:
            return bad_parameter("no such mode");
    }
    // Sections are added up and divided by.
    uint64_t sections = 0;
    for (size_t i = 11; i < 15; ++i) {
        if (parameter(node, i) < 0) {
            return bad_parameter("a section is negative");
        }
        sections += static_cast<uint32_t>(parameter(node, i));
    }
    const bool some = parameter(node, 11) > 0 || parameter(node, 12) > 0 || parameter(node, 13) > 0;
    return some && sections <= row ? fine : bad_parameter("the sections do not fit the row");
}

Problem rope(const Node & node) {
    const Tensor & a         = source(node, 0);
    const Tensor & positions = source(node, 1);
    const Tensor & self      = *node.self;
    if (a.type != self.type) {
        return bad_type("the result has another type");
    }
    if (!same_shape(a, self) || !has_packed_rows(a) || !has_packed_rows(self)) {
        return bad_shape("not two equal shapes of packed rows");
    }
    if (const Problem problem = rope_parameters(node, a.ne[0])) {
        return problem;
    }
    // Four positions a token where there are sections.
    const uint64_t each = (parameter(node, 2) & ROPE_MROPE) != 0 ? 4 : 1;
    if (!is_vector(positions) || positions.ne[0] != each * a.ne[2] || !has_packed_rows(positions)) {
        return bad_shape("not one position a token");
    }
    if (node.src[2] != nullptr) {
        const Tensor & factors = source(node, 2);
        const bool     all     = factors.ne[0] >= a.ne[0] / 2;
        if (factors.ne[0] < uint32_t(parameter(node, 1)) / 2 || (!all && a.ne[0] / 2 > MAX_HALF_ROTATED_ROW)) {
            return bad_shape("too few frequency factors");
        }
    }
    return fine;
}

Problem attention(const Node & node) {
    const Tensor & q    = source(node, 0);
    const Tensor & k    = source(node, 1);
    const Tensor & v    = source(node, 2);
    const Tensor & self = *node.self;
    const int32_t  prec = parameter(node, 3);
    if (prec != PREC_DEFAULT && prec != PREC_F32) {
        return bad_parameter("no such precision");
    }
    if (q.ne[0] != k.ne[0] || v.ne[1] < k.ne[1] || !divides(k.ne[2], q.ne[2]) || !divides(v.ne[2], q.ne[2]) ||
        !divides(k.ne[3], q.ne[3]) || !divides(v.ne[3], q.ne[3])) {
        return bad_shape("queries, keys and values do not fit");
    }
    if (!has_packed_rows(q) || !has_packed_rows(k) || !has_packed_rows(v)) {
        return bad_shape("only packed rows attend");
    }
    if (!has_shape(self, v.ne[0], q.ne[2], q.ne[1], q.ne[3]) || !is_contiguous(self)) {
        return bad_shape("the result does not fit");
    }
    if (node.src[3] != nullptr) {
        const Tensor & mask = source(node, 3);
        if (!is_contiguous(mask) || mask.ne[0] < k.ne[1] || mask.ne[1] < q.ne[1] || !divides(mask.ne[2], q.ne[2]) ||
            !divides(mask.ne[3], q.ne[3])) {
            return bad_shape("the mask does not fit");
        }
    }
    if (node.src[4] != nullptr && (source(node, 4).ne[0] != q.ne[2] || !has_packed_rows(source(node, 4)))) {
        return bad_shape("the sinks do not fit the heads");
    }
    return fine;
}

Problem argsort(const Node & node) {
    const Tensor & a = source(node, 0);
    if (uint32_t(parameter(node, 0)) >= SORT_ORDERS) {
        return bad_parameter("no such order");
    }
    const bool packed = has_packed_rows(a) && has_packed_rows(*node.self);
    return same_shape(a, *node.self) && packed && fits_by_rows(a) && fits_by_rows(*node.self) ? fine :
                                                                                               bad_shape("not one index an element");
}

Problem top_k(const Node & node) {
    const Tensor & a    = source(node, 0);
    const Tensor & self = *node.self;
    if (self.ne[0] > a.ne[0] || !has_shape(self, self.ne[0], a.ne[1], a.ne[2], a.ne[3])) {
        return bad_shape("not the best of each row");
    }
    return has_packed_rows(a) && has_packed_rows(self) && fits_by_rows(a) && fits_by_rows(self) ? fine : bad_shape("only even rows are sorted");
}

// Scores of DeepSeek's sparse attention: one a key, summed over heads.
Problem lightning_indexer(const Node & node) {
    const Tensor & q       = source(node, 0);
    const Tensor & k       = source(node, 1);
    const Tensor & weights = source(node, 2);
    const Tensor & mask    = source(node, 3);
    const Tensor & self    = *node.self;
    if (q.ne[0] != k.ne[0] || k.ne[1] != 1 || q.ne[3] != k.ne[3]) {
        return bad_shape("queries and keys do not fit");
    }
    if (!has_shape(weights, q.ne[1], q.ne[2], 1, q.ne[3])) {
        return bad_shape("not one weight a head");
    }
    if (mask.ne[0] != k.ne[2] || mask.ne[1] != q.ne[2] || mask.ne[2] != 1 || !divides(mask.ne[3], q.ne[3])) {
        return bad_shape("the mask does not fit");
    }
    for (const Tensor * t : { &q, &k, &weights, &mask, &self }) {
        if (!has_packed_rows(*t)) {
            return bad_shape("only packed rows are scored");
        }
    }
    return has_shape(self, k.ne[2], q.ne[2], 1, q.ne[3]) ? fine : bad_shape("the scores do not fit");
}

constexpr Types halfs = f32 | f16;

constexpr Rule rules[] = {
    // op                       n  result sources                                check
    { 46 /*SOFT_MAX*/,          1, f32,   { f32, halfs, f32 },                   soft_max },
    { 48 /*ROPE*/,              2, halfs, { halfs, i32, f32 },                   rope },
    { 49 /*ROPE_BACK*/,         2, halfs, { halfs, i32, f32 },                   rope },
    { 74 /*FLASH_ATTN_EXT*/,    3, f32,   { f32, matrices, matrices, f16, f32 }, attention },
    { 69 /*ARGSORT*/,           1, i32,   { f32 },                               argsort },
    { 70 /*TOP_K*/,             1, i32,   { f32 },                               top_k },
    { 87 /*LIGHTNING_INDEXER*/, 4, f32,   { f32, matrices, f32, f16 },           lightning_indexer },
};

}  // namespace

Rules attention_rules() {
    return { std::begin(rules), std::end(rules) };
}

}  // namespace rpcmesh::guard
