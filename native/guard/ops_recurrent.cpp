// States that each token changes: Mamba, RWKV, gated linear attention and delta nets, hyper-connections. Their kernels
// count in elements, so nearly everything has to be contiguous.
#include "op_rule.h"
#include "shapes.h"

namespace rpcmesh::guard {

namespace {

constexpr uint32_t HYPER_CONNECTIONS = 4;
constexpr int32_t  MAX_SINKHORN_ITERATIONS = 1024;
// GGML_F32_STEP of AVX-512, the widest; RWKV-7's heads have 64 elements.
constexpr uint32_t MAX_VECTOR = 64;

bool all_contiguous(const Node & node, size_t first, size_t last) {
    for (size_t i = first; i <= last; ++i) {
        if (!is_contiguous(source(node, i)) || !has_packed_rows(source(node, i))) {
            return false;
        }
    }
    return true;
}

Problem ssm_conv(const Node & node) {
    const Tensor & x    = source(node, 0);
    const Tensor & c    = source(node, 1);
    const Tensor & self = *node.self;
    if (x.ne[3] != 1 || !is_matrix(c) || x.ne[1] != c.ne[1] || c.ne[0] == 0 || uint64_t(x.ne[0]) + 1 < c.ne[0]) {
        return bad_shape("window and kernel do not fit");
    }
    if (!has_packed_planes(x) || !has_packed_planes(c) || !has_packed_rows(self)) {
        return bad_shape("only packed windows are convolved");
    }
    return has_shape(self, c.ne[1], x.ne[0] + 1 - c.ne[0], x.ne[2], 1) ? fine : bad_shape("the result does not fit");
}

Problem ssm_scan(const Node & node) {
    const Tensor & s         = source(node, 0);
    const Tensor & x         = source(node, 1);
    const Tensor & dt        = source(node, 2);
    const Tensor & a         = source(node, 3);
    const Tensor & b         = source(node, 4);
    const Tensor & c         = source(node, 5);
    const Tensor & ids       = source(node, 6);
    const int32_t  snapshots = parameter(node, 0);
    if (snapshots < 1 || (a.ne[0] != 1 && snapshots != 1)) {
        return bad_parameter("no such number of snapshots");
    }
    if (!all_contiguous(node, 2, 3) || !all_contiguous(node, 0, 0) || !has_packed_planes(x) || !has_packed_planes(b) ||
        !has_packed_planes(c) || !is_contiguous(*node.self) || !has_packed_rows(ids)) {
        return bad_shape("a source has gaps");
    }
    if (s.ne[1] != x.ne[0] || s.ne[2] != x.ne[1] || !has_shape(dt, x.ne[1], x.ne[2], x.ne[3], 1)) {
        return bad_shape("state, input and steps do not fit");
    }
    if (!same_shape(b, c) || b.ne[0] != s.ne[0] || b.ne[2] != x.ne[2] || b.ne[3] != x.ne[3] || !divides(b.ne[1], x.ne[1])) {
        return bad_shape("the groups do not fit the heads");
    }
    if (!is_vector(ids) || ids.ne[0] != x.ne[3] || !is_matrix(a) || a.ne[1] != x.ne[1] || (a.ne[0] != 1 && a.ne[0] != s.ne[0])) {
        return bad_shape("ids or decay do not fit");
    }
    const Wide states = Wide(uint64_t(s.ne[0]) * s.ne[1]) * s.ne[2] * ids.ne[0] * static_cast<uint32_t>(snapshots);
    return is_vector(*node.self) && elements(*node.self) == elements(x) + states ? fine : bad_shape("the result does not fit");
}

// Outputs for each token, then the states: [S * H, tokens + S * sequences].
Problem outputs_and_states(const Node & node, const Tensor & k, const Tensor & state) {
    const uint64_t size     = k.ne[0];
    const uint64_t heads    = k.ne[1];
    const uint64_t tokens   = k.ne[2];
    const uint64_t sequences = state.ne[1];
    if (k.ne[3] != 1 || size == 0 || heads == 0) {
        return bad_shape("no heads");
    }
    // ggml divides the tokens among the sequences, and by what that gives.
    if (tokens != 0 && !divides(sequences, tokens)) {
        return bad_shape("the tokens do not divide among the sequences");
    }
    if (elements(state) != Wide(size) * size * heads * sequences) {
        return bad_shape("the state does not fit");
    }
    const bool fits = is_contiguous(*node.self) && has_shape(*node.self, size * heads, tokens + size * sequences, 1, 1);
    return fits ? fine : bad_shape("the result does not fit");
}

Problem rwkv6(const Node & node) {
    const Tensor & k = source(node, 0);
    if (!all_contiguous(node, 0, 5)) {
        return bad_shape("a source has gaps");
    }
    if (!same_shape(source(node, 1), k) || !same_shape(source(node, 2), k) || !same_shape(source(node, 4), k)) {
        return bad_shape("keys, values and decays do not fit");
    }
    if (elements(source(node, 3)) != Wide(k.ne[0]) * k.ne[1]) {
        return bad_shape("not one bonus a head's element");
    }
    return outputs_and_states(node, k, source(node, 5));
}

Problem rwkv7(const Node & node) {
    const Tensor & k = source(node, 2);
    if (!all_contiguous(node, 0, 6)) {
        return bad_shape("a source has gaps");
    }
    for (size_t i = 0; i < 6; ++i) {
        if (!same_shape(source(node, i), k)) {
            return bad_shape("keys, values and decays do not fit");
        }
    }
    // The kernel has no left-overs: it reads and writes whole vectors.
    if (k.ne[0] % MAX_VECTOR != 0) {
        return bad_shape("a head is not a whole number of vectors");
    }
    return outputs_and_states(node, k, source(node, 6));
}

Problem gated_linear_attention(const Node & node) {
    const Tensor & k = source(node, 0);
    if (!all_contiguous(node, 0, 4)) {
        return bad_shape("a source has gaps");
    }
    for (size_t i = 1; i < 4; ++i) {
        if (!same_shape(source(node, i), k)) {
            return bad_shape("keys, values and gates do not fit");
        }
    }
    return outputs_and_states(node, k, source(node, 4));
}

// Queries and keys repeat over the values' heads and sequences.
bool fits_values(const Tensor & t, const Tensor & v) {
    return has_packed_rows(t) && t.ne[0] == v.ne[0] && divides(t.ne[1], v.ne[1]) && t.ne[2] == v.ne[2] && divides(t.ne[3], v.ne[3]);
}

Problem gated_delta_net(const Node & node) {
    const Tensor & v         = source(node, 2);
    const Tensor & gate      = source(node, 3);
    const Tensor & state     = source(node, 5);
    const int32_t  snapshots = parameter(node, 0);
    if (snapshots < 1) {
        return bad_parameter("no such number of snapshots");
    }
    if (!fits_values(source(node, 0), v) || !fits_values(source(node, 1), v) || !has_packed_rows(v)) {
        return bad_shape("queries, keys and values do not fit");
    }
    if (!all_contiguous(node, 3, 5) || !is_contiguous(*node.self)) {
        return bad_shape("a source has gaps");
    }
    const bool gate_fits = gate.ne[0] == 1 || gate.ne[0] == v.ne[0];
    if (!gate_fits || !has_shape(gate, gate.ne[0], v.ne[1], v.ne[2], v.ne[3]) || !has_shape(source(node, 4), 1, v.ne[1], v.ne[2], v.ne[3])) {
        return bad_shape("the gates do not fit the values");
    }
    if (!has_shape(state, v.ne[0], v.ne[0], v.ne[1], v.ne[3])) {
        return bad_shape("the state does not fit");
    }
    const Wide rows = Wide(v.ne[2]) * v.ne[3] + Wide(static_cast<uint32_t>(snapshots)) * v.ne[0] * v.ne[3];
    const bool fits = is_matrix(*node.self) && node.self->ne[0] == uint64_t(v.ne[0]) * v.ne[1] && node.self->ne[1] == rows;
    return fits ? fine : bad_shape("the result does not fit");
}

Problem hyper_comb(const Node & node) {
    const Tensor & mixes = source(node, 0);
    const Tensor & scale = source(node, 1);
    const Tensor & base  = source(node, 2);
    constexpr uint32_t width = HYPER_CONNECTIONS * (HYPER_CONNECTIONS + 2);
    if (parameter(node, 1) <= 0 || parameter(node, 1) > MAX_SINKHORN_ITERATIONS) {
        return bad_parameter("no such number of iterations");
    }
    if (mixes.ne[0] != width || !is_matrix(mixes) || !is_vector(scale) || scale.ne[0] < 3 || !has_shape(base, width, 1, 1, 1)) {
        return bad_shape("the mixes do not fit");
    }
    const bool fits = has_shape(*node.self, HYPER_CONNECTIONS, HYPER_CONNECTIONS, mixes.ne[1], 1);
    return fits ? fine : bad_shape("the result does not fit");
}

Problem hyper_pre(const Node & node) {
    const Tensor & x       = source(node, 0);
    const Tensor & weights = source(node, 1);
    if (x.ne[1] == 0 || x.ne[3] != 1) {
        return bad_shape("no connections");
    }
    const bool fits = parameter(node, 1) != 0 ? same_shape(weights, x) : has_shape(weights, x.ne[1], x.ne[2], 1, 1);
    return fits && has_shape(*node.self, x.ne[0], x.ne[2], 1, 1) ? fine : bad_shape("the weights do not fit");
}

Problem hyper_post(const Node & node) {
    const Tensor & x        = source(node, 0);
    const Tensor & residual = source(node, 1);
    const uint32_t n        = residual.ne[1];
    if (n == 0 || !is_matrix(x) || !has_shape(residual, x.ne[0], n, x.ne[1], 1) || !has_shape(source(node, 2), n, x.ne[1], 1, 1)) {
        return bad_shape("the residual does not fit");
    }
    if (node.src[3] != nullptr && !has_shape(source(node, 3), n, n, x.ne[1], 1)) {
        return bad_shape("the combination does not fit");
    }
    return has_shape(*node.self, x.ne[0], n, x.ne[1], 1) ? fine : bad_shape("the result does not fit");
}

constexpr Rule rules[] = {
    // op                       n  result sources                                check
    { 76 /*SSM_CONV*/,          2, f32,   { f32, f32 },                          ssm_conv },
    { 77 /*SSM_SCAN*/,          7, f32,   { f32, f32, f32, f32, f32, f32, i32 }, ssm_scan },
    { 82 /*RWKV_WKV6*/,         6, f32,   { f32, f32, f32, f32, f32, f32 },      rwkv6 },
    { 84 /*RWKV_WKV7*/,         7, f32,   { f32, f32, f32, f32, f32, f32, f32 }, rwkv7 },
    { 83 /*GATED_LINEAR_ATTN*/, 5, f32,   { f32, f32, f32, f32, f32 },           gated_linear_attention },
    { 86 /*GATED_DELTA_NET*/,   6, f32,   { f32, f32, f32, f32, f32, f32 },      gated_delta_net },
    { 88 /*DSV4_HC_COMB*/,      3, f32,   { f32, f32, f32 },                     hyper_comb },
    { 89 /*DSV4_HC_PRE*/,       2, f32,   { f32, f32 },                          hyper_pre },
    { 90 /*DSV4_HC_POST*/,      3, f32,   { f32, f32, f32, f32 },                hyper_post },
};

}  // namespace

Rules recurrent_rules() {
    return { std::begin(rules), std::end(rules) };
}

}  // namespace rpcmesh::guard
