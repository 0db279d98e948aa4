// A graph is let through whole or not at all: each test breaks one thing in a graph that passes.
#include "graph.h"

#include <cstring>
#include <functional>
#include <vector>

#include "check.h"
#include "wire.h"

namespace {

using namespace rpcmesh::guard;

constexpr uint32_t F32 = 0;
constexpr uint32_t ADD = 2, CPY = 34, VIEW = 37, SQR = 9, CUSTOM = 95;
constexpr uint64_t BUFFER_BYTES = 1 << 20;

using Bytes = std::vector<uint8_t>;

// A tensor with what it refers to.
struct Entry : Tensor, References {};

// A graph before it is bytes.
struct Graph {
    uint32_t              device = 0;
    std::vector<uint64_t> nodes;
    std::vector<Entry>    tensors;

    Entry & operator[](uint64_t id) {
        for (Entry & tensor : tensors) {
            if (tensor.id == id) {
                return tensor;
            }
        }
        std::abort();
    }
};

void put(Bytes & to, size_t at, uint64_t value, size_t bytes) {
    store(to.data() + at, value, bytes);
}

Bytes bytes_of_tensor(const Entry & t) {
    Bytes to(TENSOR_BYTES);
    put(to, 0, t.id, 8);
    put(to, 8, t.type, 4);
    put(to, 12, t.buffer, 8);
    for (size_t i = 0; i < 4; ++i) {
        put(to, 20 + 4 * i, t.ne[i], 4);
        put(to, 36 + 4 * i, t.nb[i], 4);
    }
    put(to, 52, t.op, 4);
    for (size_t i = 0; i < 16; ++i) {
        put(to, 56 + 4 * i, static_cast<uint32_t>(t.op_params[i]), 4);
    }
    for (size_t i = 0; i < MAX_SOURCES; ++i) {
        put(to, 124 + 8 * i, t.src[i], 8);
    }
    put(to, 204, t.view_src, 8);
    put(to, 212, t.view_offs, 8);
    put(to, 220, t.data, 8);
    return to;
}

Bytes bytes_of_graph(const Graph & graph) {
    Bytes to;
    append(to, graph.device, 4);
    append(to, graph.nodes.size(), 4);
    for (uint64_t id : graph.nodes) {
        append(to, id, 8);
    }
    append(to, graph.tensors.size(), 4);
    for (const Entry & tensor : graph.tensors) {
        const Bytes bytes = bytes_of_tensor(tensor);
        to.insert(to.end(), bytes.begin(), bytes.end());
    }
    return to;
}

struct Fixture {
    Buffers  buffers{ uint64_t(1) << 30 };
    uint64_t handle = 0;
    uint64_t base   = 0;
    uint64_t other  = 0;  // a buffer of device 1
    uint64_t other_base = 0;

    Fixture() {
        handle = buffers.add(0, 111, BUFFER_BYTES).handle;
        buffers.set_real_base(handle, 0x700000000000);
        base  = buffers.find(handle)->base;
        other = buffers.add(1, 222, BUFFER_BYTES).handle;
        buffers.set_real_base(other, 0x710000000000);
        other_base = buffers.find(other)->base;
    }

    Entry tensor(uint64_t id, uint32_t op, uint64_t offset, std::array<uint64_t, MAX_SOURCES> src = {}) const {
        Entry t{};
        t.id     = id;
        t.type   = F32;
        t.ne     = { 8, 4, 1, 1 };
        t.nb     = { 4, 32, 128, 128 };
        t.op     = op;
        t.src    = src;
        t.buffer = handle;
        t.data   = base + offset;
        return t;
    }

    // 10 and 20 are leaves, 30 = 10 + 20, 40 is a view of 30's second row, 50 = 40 squared.
    Graph graph() const {
        Graph g;
        g.nodes   = { 30, 40, 50 };
        g.tensors = { tensor(10, 0, 0), tensor(20, 0, 128), tensor(30, ADD, 256, { 10, 20 }), tensor(40, VIEW, 256 + 32, { 30 }),
                      tensor(50, SQR, 512, { 40 }) };
        g[40].ne        = { 8, 1, 1, 1 };
        g[40].view_src  = 30;
        g[40].view_offs = 32;
        g[50].ne        = { 8, 1, 1, 1 };
        return g;
    }

    Finding check(const Bytes & bytes, const GraphLimits & limits = {}) const {
        std::array<bool, OP_COUNT> extras{};
        extras.fill(true);
        GraphSummary summary;
        return check_graph(bytes.data(), bytes.size(), 2, buffers, limits, extras, summary);
    }
    Finding check(const Graph & graph, const GraphLimits & limits = {}) const { return check(bytes_of_graph(graph), limits); }
};

void a_sound_graph_passes_and_is_summed_up() {
    const Fixture              at;
    const Bytes                bytes = bytes_of_graph(at.graph());
    GraphSummary               summary;
    std::array<bool, OP_COUNT> extras{};
    const Finding              finding = check_graph(bytes.data(), bytes.size(), 2, at.buffers, {}, extras, summary);
    CHECK_EQ(finding.detail, "");
    CHECK_EQ(summary.nodes, 3u);
    CHECK_EQ(summary.tensors, 5u);
}

void every_other_length_is_refused() {
    const Fixture at;
    const Bytes   bytes = bytes_of_graph(at.graph());
    for (size_t size = 0; size < bytes.size(); ++size) {
        // A heap copy, so that ASan sees a read beyond it.
        CHECK(at.check(Bytes(bytes.begin(), bytes.begin() + static_cast<long>(size))).refusal == Refusal::graph_length);
    }
    Bytes longer = bytes;
    longer.push_back(0);
    CHECK(at.check(longer).refusal == Refusal::graph_length);
}

void counts_that_lie_are_refused() {
    const Fixture at;
    for (uint32_t count : { 0u, 4u, 65536u, 65537u, 0x20000000u, UINT32_MAX }) {
        Bytes nodes = bytes_of_graph(at.graph());
        put(nodes, 4, count, 4);
        CHECK(at.check(nodes));
        Bytes tensors = bytes_of_graph(at.graph());
        put(tensors, 8 + 8 * 3, count, 4);
        CHECK(at.check(tensors));
    }
}

void limits_hold() {
    const Fixture at;
    GraphLimits   nodes;
    nodes.nodes = 2;
    CHECK(at.check(at.graph(), nodes).refusal == Refusal::graph_too_large);
    GraphLimits tensors;
    tensors.tensors = 4;
    CHECK(at.check(at.graph(), tensors).refusal == Refusal::graph_too_large);
    GraphLimits depth;
    depth.depth = 3;
    CHECK(at.check(at.graph(), depth).refusal == Refusal::graph_depth);
    depth.depth = 4;
    CHECK(at.check(at.graph(), depth).refusal == Refusal::none);
}

void one_broken_thing_is_refused_by_name() {
    struct Row {
        const char *                              what;
        std::function<void(Graph &, Fixture &)>   breaks;
        Refusal                                   expected;
    };
    const Row rows[] = {
        { "unknown device", [](Graph & g, Fixture &) { g.device = 2; }, Refusal::device_unknown },
        { "node of id 0", [](Graph & g, Fixture &) { g.nodes[0] = 0; }, Refusal::graph_reference },
        { "unknown node", [](Graph & g, Fixture &) { g.nodes[0] = 31; }, Refusal::graph_reference },
        { "node twice", [](Graph & g, Fixture &) { g.nodes.push_back(50); }, Refusal::graph_reference },
        { "tensor of id 0", [](Graph & g, Fixture &) { g[10].id = 0; }, Refusal::graph_reference },
        { "two tensors of one id", [](Graph & g, Fixture &) { g[20].id = 10; }, Refusal::graph_reference },
        { "unknown source", [](Graph & g, Fixture &) { g[30].src[0] = 99; }, Refusal::graph_reference },
        { "later source", [](Graph & g, Fixture &) { g[30].src[0] = 50; }, Refusal::graph_reference },
        { "itself", [](Graph & g, Fixture &) { g[30].src[0] = 30; }, Refusal::graph_reference },
        { "source of a leaf", [](Graph & g, Fixture &) { g[20].src[9] = 99; }, Refusal::graph_reference },
        { "later view source", [](Graph & g, Fixture &) { g[40].view_src = 50; }, Refusal::graph_reference },
        { "view of itself", [](Graph & g, Fixture &) { g[40].view_src = 40; }, Refusal::graph_reference },
        { "missing source", [](Graph & g, Fixture &) { g[30].src[1] = 0; }, Refusal::op_sources },
        { "no such type", [](Graph & g, Fixture &) { g[20].type = 4; }, Refusal::tensor_type },
        { "no such op", [](Graph & g, Fixture &) { g[50].op = OP_COUNT; }, Refusal::op_forbidden },
        { "function pointer", [](Graph & g, Fixture &) { g[50].op = CUSTOM; }, Refusal::op_forbidden },
        { "function pointer in no node", [](Graph & g, Fixture &) { g[10].op = CUSTOM; }, Refusal::op_forbidden },
        { "shapes", [](Graph & g, Fixture &) { g[20].ne[0] = 3; }, Refusal::op_shape },
        { "unknown buffer", [](Graph & g, Fixture &) { g[20].buffer = 77; }, Refusal::buffer_unknown },
        { "leaf without buffer", [](Graph & g, Fixture &) { g[20].buffer = 0; g[20].data = 0; }, Refusal::buffer_unknown },
        { "address without buffer", [](Graph & g, Fixture &) { g[20].buffer = 0; }, Refusal::buffer_unknown },
        { "buffer without address", [](Graph & g, Fixture &) { g[20].data = 0; }, Refusal::tensor_bounds },
        { "node without buffer", [](Graph & g, Fixture &) { g[50].buffer = 0; g[50].data = 0; }, Refusal::buffer_unknown },
        { "buffer of another device", [](Graph & g, Fixture & at) { g[20].buffer = at.other; g[20].data = at.other_base; }, Refusal::buffer_unknown },
        { "one byte too far", [](Graph & g, Fixture & at) { g[50].data = at.base + BUFFER_BYTES - 31; }, Refusal::tensor_bounds },
        { "one byte too early", [](Graph & g, Fixture & at) { g[20].data = at.base - 1; }, Refusal::tensor_bounds },
        { "address that wraps", [](Graph & g, Fixture &) { g[20].data = UINT64_MAX - 4; }, Refusal::tensor_bounds },
        { "strides that wrap", [](Graph & g, Fixture &) { g[20].nb = { 4, UINT32_MAX, UINT32_MAX, UINT32_MAX }; }, Refusal::tensor_bounds },
        { "rows beyond the buffer", [](Graph & g, Fixture &) { g[20].nb[1] = 1 << 20; }, Refusal::tensor_bounds },
        { "view elsewhere", [](Graph & g, Fixture &) { g[40].view_offs = 36; }, Refusal::tensor_bounds },
        { "view offset that wraps", [](Graph & g, Fixture &) { g[40].view_offs = UINT64_MAX - 3; g[40].data = g[30].data - 4; }, Refusal::tensor_bounds },
        { "view longer than its source", [](Graph & g, Fixture &) { g[40].ne[0] = 32; }, Refusal::tensor_bounds },
    };
    for (const Row & row : rows) {
        check::row = row.what;
        Fixture at;
        Graph   graph = at.graph();
        row.breaks(graph, at);
        const Finding finding = at.check(graph);
        CHECK_EQ(std::string(name_of(finding.refusal)), name_of(row.expected));
    }
}

void a_tensor_no_kernel_touches_may_lie_nowhere() {
    const Fixture at;
    Graph         graph = at.graph();
    graph.nodes         = { 30, 40 };
    graph.tensors.pop_back();
    graph[40].buffer = 0;
    graph[40].data   = 0;
    CHECK_EQ(at.check(graph).detail, "");
}

void a_cast_is_its_own_second_source() {
    const Fixture at;
    Graph         graph = at.graph();
    graph[50].op        = CPY;
    graph[50].src       = { 40, 50 };
    CHECK_EQ(at.check(graph).detail, "");
    graph[50].src = { 50, 50 };
    CHECK(at.check(graph).refusal == Refusal::graph_reference);
}

void an_empty_result_needs_no_room() {
    const Fixture at;
    Graph         graph = at.graph();
    graph[40].ne        = { 8, 0, 1, 1 };
    graph[50].ne        = { 8, 0, 1, 1 };
    graph[50].data      = at.base + BUFFER_BYTES;
    CHECK_EQ(at.check(graph).detail, "");
}

void a_stride_of_zero_does_not_outgrow_the_session() {
    const Fixture at;
    Graph         graph = at.graph();
    // 2^34 bytes of 128: a kernel would ask for scratch of that size.
    graph[20].ne = { 8, 1 << 29, 1, 1 };
    graph[20].nb = { 4, 0, 0, 0 };
    CHECK(at.check(graph).refusal == Refusal::tensor_shape);
}

void the_deepest_chain_is_walked_without_recursion() {
    const Fixture at;
    Graph         graph;
    graph.tensors.push_back(at.tensor(1, 0, 0));
    for (uint64_t id = 2; id <= 32768; ++id) {
        graph.tensors.push_back(at.tensor(id, SQR, 0, { id - 1 }));
        graph.nodes.push_back(id);
    }
    CHECK_EQ(at.check(graph).detail, "");
    graph.tensors.push_back(at.tensor(32769, SQR, 0, { 32768 }));
    CHECK(at.check(graph).refusal == Refusal::graph_depth);
}

void a_refusal_says_where_it_was() {
    const Fixture at;
    Graph         graph = at.graph();
    graph[20].ne[0]     = 3;
    const Finding finding = at.check(graph);
    CHECK_EQ(finding.node, 0);
    CHECK_EQ(finding.op, static_cast<int>(ADD));
}

void one_flipped_byte_never_crashes_the_check() {
    const Fixture at;
    const Bytes   bytes = bytes_of_graph(at.graph());
    for (size_t i = 0; i < bytes.size(); ++i) {
        for (uint8_t flip : { 0x01, 0x80, 0xff }) {
            Bytes broken = bytes;
            broken[i] ^= flip;
            const Finding finding = at.check(broken);
            CHECK(finding.refusal == Refusal::none || !finding.detail.empty());
        }
    }
}

}  // namespace

int main() {
    return check::run({
        TEST(a_sound_graph_passes_and_is_summed_up),
        TEST(every_other_length_is_refused),
        TEST(counts_that_lie_are_refused),
        TEST(limits_hold),
        TEST(one_broken_thing_is_refused_by_name),
        TEST(a_tensor_no_kernel_touches_may_lie_nowhere),
        TEST(a_cast_is_its_own_second_source),
        TEST(an_empty_result_needs_no_room),
        TEST(a_stride_of_zero_does_not_outgrow_the_session),
        TEST(the_deepest_chain_is_walked_without_recursion),
        TEST(a_refusal_says_where_it_was),
        TEST(one_flipped_byte_never_crashes_the_check),
    });
}
