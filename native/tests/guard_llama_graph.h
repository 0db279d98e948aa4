// One token's graph of a llama model as llama.cpp builds it without flash attention: 33 nodes a layer, quantized weights, a
// transposed cache of values. The sizes are SmolLM2's; `layers` says how long it gets.
#pragma once

#include "guard_relay.h"

namespace frames {

class LlamaGraph {
public:
    // Allocates its weights, cache and results, each in a buffer of its own, in a greeted session.
    LlamaGraph(Relay & relay, uint32_t layers) : weights_(allocate(relay)), cache_(allocate(relay)), results_(allocate(relay)) {
        tokens_    = leaf(I32, { { 1, 1, 1, 1 } }, results_);
        positions_ = leaf(I32, { { 1, 1, 1, 1 } }, results_);
        mask_      = leaf(F32, { { CELLS, 1, 1, 1 } }, results_);
        cells_     = leaf(I64, { { 1, 1, 1, 1 } }, results_);
        spread_    = leaf(I64, { { KV_WIDTH, 1, 1, 1 } }, results_);
        Wanted x   = node(GET_ROWS, F32, { { WIDTH, 1, 1, 1 } }, { weight(WIDTH, WORDS), tokens_ });
        for (uint32_t i = 0; i < layers; ++i) {
            x = feed_forward(attention(x));
        }
        node(MUL_MAT, F32, { { WORDS, 1, 1, 1 } }, { weight(WIDTH, WORDS), normed(x) });
    }

    std::vector<Wanted> tensors;
    std::vector<uint64_t> nodes;

    Bytes bytes() const {
        std::vector<Bytes> all;
        for (const Wanted & wanted : tensors) {
            all.push_back(tensor(wanted));
        }
        return graph(nodes, all);
    }

private:
    using Shape = std::array<uint32_t, 4>;

    static constexpr uint32_t F16 = 1, I32 = 26, I64 = 27;
    static constexpr uint32_t MUL = 7, RMS_NORM = 25, MUL_MAT = 29, CONT = 35, RESHAPE = 36, VIEW = 37, PERMUTE = 38, GET_ROWS = 40,
                              SET_ROWS = 42, SOFT_MAX = 46, ROPE = 48, GLU = 100;
    static constexpr uint32_t WIDTH = 576, HEADS = 9, KV_HEADS = 3, HEAD = 64, KV_WIDTH = KV_HEADS * HEAD, INNER = 1536, WORDS = 49152;
    static constexpr uint32_t CELLS = 256;  // of the cache
    static constexpr uint64_t BUFFER_BYTES = uint64_t(1) << 30;

    struct Place {
        uint64_t handle;
        uint64_t next;
    };

    static Place allocate(Relay & relay) {
        const uint64_t handle = load64(&relay.ask(alloc(BUFFER_BYTES))[8]);
        return { handle, load64(&relay.ask(of_buffer(BUFFER_GET_BASE, handle))[8]) };
    }

    // Behind what `place` has already.
    Wanted leaf(uint32_t type, const Shape & ne, Place & place) {
        Wanted wanted;
        wanted.id     = next_id();
        wanted.type   = type;
        wanted.ne     = ne;
        wanted.buffer = place.handle;
        wanted.data   = place.next;
        place.next += static_cast<uint64_t>(bytes_of(read_tensor(tensor(wanted).data())) + 31) / 32 * 32;
        tensors.push_back(wanted);
        return wanted;
    }

    Wanted weight(uint32_t columns, uint32_t rows) { return leaf(Q4_1, { { columns, rows, 1, 1 } }, weights_); }

    Wanted node(uint32_t op, uint32_t type, const Shape & ne, const std::vector<Wanted> & sources, const std::vector<int32_t> & params = {}) {
        Wanted wanted = leaf(type, ne, results_);
        return computed(wanted, op, sources, params);
    }

    // In the memory of `whole`, from `offset` on.
    Wanted view(uint32_t op, const Wanted & whole, const Shape & ne, const Shape & nb, const std::vector<Wanted> & sources = {},
                const std::vector<int32_t> & params = {}) {
        Wanted wanted   = whole;
        wanted.id       = next_id();
        wanted.ne       = ne;
        wanted.nb       = nb;
        wanted.view_src = whole.id;
        tensors.push_back(wanted);
        return computed(wanted, op, sources.empty() ? std::vector<Wanted>{ whole } : sources, params);
    }

    Wanted computed(Wanted wanted, uint32_t op, const std::vector<Wanted> & sources, const std::vector<int32_t> & params) {
        wanted.op    = op;
        wanted.flags = 16;
        wanted.src.clear();
        for (const Wanted & source : sources) {
            wanted.src.push_back(source.id);
        }
        wanted.params  = params;
        tensors.back() = wanted;
        nodes.push_back(wanted.id);
        return wanted;
    }

    Wanted normed(const Wanted & x) {
        const Wanted scaled = node(RMS_NORM, F32, x.ne, { x });
        return node(MUL, F32, x.ne, { scaled, leaf(F32, { { WIDTH, 1, 1, 1 } }, weights_) });
    }

    Wanted rotated(const Wanted & x, uint32_t heads) {
        const Wanted by_head = view(RESHAPE, x, { { HEAD, heads, 1, 1 } }, {});
        return node(ROPE, F32, by_head.ne, { by_head, positions_ }, { 0, HEAD, 0 });
    }

    Wanted attention(const Wanted & x) {
        const Wanted keys   = leaf(F16, { { KV_WIDTH, CELLS, 1, 1 } }, cache_);
        const Wanted values = leaf(F16, { { KV_WIDTH, CELLS, 1, 1 } }, cache_);
        const Wanted in     = normed(x);
        const Wanted q      = rotated(node(MUL_MAT, F32, { { WIDTH, 1, 1, 1 } }, { weight(WIDTH, WIDTH), in }), HEADS);
        const Wanted k      = rotated(node(MUL_MAT, F32, { { KV_WIDTH, 1, 1, 1 } }, { weight(WIDTH, KV_WIDTH), in }), KV_HEADS);
        const Wanted v      = node(MUL_MAT, F32, { { KV_WIDTH, 1, 1, 1 } }, { weight(WIDTH, KV_WIDTH), in });
        const Wanted k_row  = view(VIEW, k, { { KV_WIDTH, 1, 1, 1 } }, {});
        const Wanted v_row  = view(RESHAPE, v, { { 1, KV_WIDTH, 1, 1 } }, {});
        const Wanted column = view(RESHAPE, values, { { 1, KV_WIDTH * CELLS, 1, 1 } }, {});
        view(SET_ROWS, keys, keys.ne, {}, { k_row, cells_, keys });
        view(SET_ROWS, values, column.ne, {}, { v_row, spread_, column });
        const Wanted k_seen = view(VIEW, keys, { { HEAD, KV_HEADS, CELLS, 1 } }, {});
        const Wanted v_seen = view(VIEW, values, { { CELLS, KV_HEADS, HEAD, 1 } }, { { 2, 2 * CELLS * HEAD, 2 * CELLS, 2 * CELLS * KV_WIDTH } });
        const Wanted queries = permuted(q);
        const Wanted scores = node(MUL_MAT, F32, { { CELLS, 1, HEADS, 1 } }, { permuted(k_seen), queries });
        const Wanted shares = node(SOFT_MAX, F32, scores.ne, { scores, mask_ });
        const Wanted mixed  = node(MUL_MAT, F32, { { HEAD, 1, HEADS, 1 } }, { permuted(v_seen), shares });
        const Wanted joined = node(CONT, F32, { { WIDTH, 1, 1, 1 } }, { permuted(mixed) });
        return node(ADD, F32, x.ne, { node(MUL_MAT, F32, x.ne, { weight(WIDTH, WIDTH), joined }), x });
    }

    Wanted permuted(const Wanted & x) {
        const Tensor t = read_tensor(tensor(x).data());
        return view(PERMUTE, x, { { t.ne[0], t.ne[2], t.ne[1], t.ne[3] } }, { { t.nb[0], t.nb[2], t.nb[1], t.nb[3] } }, {}, { 0, 2, 1, 3 });
    }

    Wanted feed_forward(const Wanted & x) {
        const Wanted in    = normed(x);
        const Wanted gate  = node(MUL_MAT, F32, { { INNER, 1, 1, 1 } }, { weight(WIDTH, INNER), in });
        const Wanted up    = node(MUL_MAT, F32, { { INNER, 1, 1, 1 } }, { weight(WIDTH, INNER), in });
        const Wanted gated = node(GLU, F32, up.ne, { gate, up }, { 2 });
        return node(ADD, F32, x.ne, { node(MUL_MAT, F32, x.ne, { weight(INNER, WIDTH), gated }), x });
    }

    // As far apart as ggml's tensors in a client's memory.
    uint64_t next_id() { return 0x55d0c0de0000 + 336 * ++ids_; }

    uint64_t ids_ = 0;
    Place    weights_;
    Place    cache_;
    Place    results_;
    Wanted   tokens_, positions_, mask_, cells_, spread_;
};

}  // namespace frames
