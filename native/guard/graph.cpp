#include "graph.h"

#include <algorithm>
#include <vector>

#include "wire.h"

namespace rpcmesh::guard {

namespace {

constexpr size_t   HEAD_BYTES  = 8;  // u32 device | u32 n
constexpr size_t   ID_BYTES    = 8;
constexpr size_t   COUNT_BYTES = 4;  // u32 m
constexpr uint32_t NO_TENSOR   = UINT32_MAX;

constexpr uint32_t OP_NONE      = 0;
constexpr uint32_t OP_CPY       = 34;
constexpr uint32_t OP_RESHAPE   = 36;
constexpr uint32_t OP_TRANSPOSE = 39;
constexpr uint32_t MAP_CUSTOM1  = 92;
constexpr uint32_t CUSTOM       = 95;

// Strides of 0 make a tensor larger than its bytes, and scratch is measured by elements: so no tensor may stand for more
// than this many bytes and all that its session owns.
constexpr uint64_t SPREAD_BYTES = uint64_t(256) << 20;

// Memory of one graph, kept for the next.
constexpr size_t KEPT_TENSORS = 8192;

// No kernel runs for these: their bytes are only named. RESHAPE, VIEW, PERMUTE and TRANSPOSE stand in a row.
bool touches_nothing(uint32_t op) {
    return op == OP_NONE || (op >= OP_RESHAPE && op <= OP_TRANSPOSE);
}

// Ids to places, open addressing. A slot is four bytes and a quarter of them is used at most, so that the table stays in the
// cache and most lookups end with their first probe. The client chooses the ids, so their order is mixed; should it find
// collisions, a lookup ends after MAX_PROBES.
class Places {
public:
    void reset(size_t count) {
        size_t size = 16;
        while (size < 4 * count) {
            size *= 2;
        }
        slots_.assign(size, NO_TENSOR);
        mask_ = size - 1;
        ids_.clear();
    }

    // Gives the id the next place. False where it is there already, or cannot be kept.
    bool add(uint64_t id) {
        for (size_t probe = 0; probe < MAX_PROBES; ++probe) {
            uint32_t & place = slots_[(mixed(id) + probe) & mask_];
            if (place == NO_TENSOR) {
                place = static_cast<uint32_t>(ids_.size());
                ids_.push_back(id);
                return true;
            }
            if (ids_[place] == id) {
                return false;
            }
        }
        return false;
    }

    uint32_t find(uint64_t id) const {
        for (size_t probe = 0; probe < MAX_PROBES; ++probe) {
            const uint32_t place = slots_[(mixed(id) + probe) & mask_];
            if (place == NO_TENSOR || ids_[place] == id) {
                return place;
            }
        }
        return NO_TENSOR;
    }

    void shrink() {
        slots_ = {};
        ids_   = {};
    }

private:
    static constexpr size_t MAX_PROBES = 256;

    // The last step of MurmurHash3: every bit of the id reaches the lowest bits.
    static size_t mixed(uint64_t id) {
        id ^= id >> 33;
        id *= 0xff51afd7ed558ccdULL;
        id ^= id >> 33;
        id *= 0xc4ceb9fe1a85ec53ULL;
        return static_cast<size_t>(id ^ id >> 33);
    }

    std::vector<uint32_t> slots_;
    std::vector<uint64_t> ids_;  // by place
    size_t                mask_ = 0;
};

// What is known of a tensor beside what it says.
struct Known {
    uint64_t                          bytes;    // where it lies in a buffer
    uint32_t                          depth;
    uint32_t                          slots;    // of `sources`, up to the last that is one
    bool                              listed;   // among the nodes
    bool                              held;     // its bytes lie in a buffer of the graph's device
    std::array<uint32_t, MAX_SOURCES> sources;  // places, NO_TENSOR where there is none; beyond `slots` whatever was there
};

class Graph {
public:
    Finding check(const uint8_t * payload, size_t size, uint32_t devices, const Buffers & buffers, const GraphLimits & limits,
                  const std::array<bool, OP_COUNT> & allowed_extra, GraphSummary & summary);

private:
    // Each is true, or says in finding_ why not: nothing is made for the thousands of tensors that are as they should be.
    bool    measure(const uint8_t * payload, size_t size, uint32_t devices, const GraphLimits & limits);
    bool    check_tensor(uint32_t place, const Buffers & buffers, const GraphLimits & limits);
    bool    check_place_in_memory(uint32_t place, const Buffers & buffers);
    bool    check_references(uint32_t place, const References & references, const GraphLimits & limits);
    bool    check_view(uint32_t place, uint32_t source, uint64_t offset);
    bool    reach(uint32_t place, uint64_t id, bool itself_allowed, uint32_t & found, uint32_t & depth) const;
    bool    check_node(const uint8_t * id, const std::array<bool, OP_COUNT> & allowed_extra);
    Node    node_of(uint32_t place) const;
    bool    lies_on_the_device(uint32_t place) const;
    bool    refuse(Refusal refusal, std::string detail);

    GraphSummary        summary_;
    const uint8_t *     ids_     = nullptr;
    const uint8_t *     entries_ = nullptr;
    Wide                spread_  = 0;
    Finding             finding_;
    std::vector<Tensor> tensors_;
    std::vector<Known>  known_;
    Places              places_;
};

bool Graph::refuse(Refusal refusal, std::string detail) {
    finding_.refusal = refusal;
    finding_.detail  = std::move(detail);
    return false;
}

bool Graph::measure(const uint8_t * payload, size_t size, uint32_t devices, const GraphLimits & limits) {
    if (size < HEAD_BYTES + COUNT_BYTES) {
        return refuse(Refusal::graph_length, "a graph of " + std::to_string(size) + " bytes");
    }
    summary_        = {};
    summary_.device = load32(payload);
    summary_.nodes  = load32(payload + 4);
    if (summary_.device >= devices) {
        return refuse(Refusal::device_unknown, "device " + std::to_string(summary_.device));
    }
    if (summary_.nodes > limits.nodes) {
        return refuse(Refusal::graph_too_large, std::to_string(summary_.nodes) + " nodes");
    }
    const size_t ids_end = HEAD_BYTES + ID_BYTES * summary_.nodes;
    if (summary_.nodes == 0 || size < ids_end + COUNT_BYTES) {
        return refuse(Refusal::graph_length, std::to_string(summary_.nodes) + " nodes in " + std::to_string(size) + " bytes");
    }
    ids_             = payload + HEAD_BYTES;
    entries_         = payload + ids_end + COUNT_BYTES;
    summary_.tensors = load32(payload + ids_end);
    if (summary_.tensors > limits.tensors) {
        return refuse(Refusal::graph_too_large, std::to_string(summary_.tensors) + " tensors");
    }
    if (size != ids_end + COUNT_BYTES + TENSOR_BYTES * summary_.tensors) {
        return refuse(Refusal::graph_length, std::to_string(summary_.tensors) + " tensors in " + std::to_string(size) + " bytes");
    }
    return true;
}

// A tensor that names no buffer has no address either. One that does lies in it, whether it is touched or not.
bool Graph::check_place_in_memory(uint32_t place, const Buffers & buffers) {
    const Tensor & tensor = tensors_[place];
    if (tensor.buffer == 0) {
        return tensor.data == 0 || refuse(Refusal::buffer_unknown, "an address without a buffer");
    }
    const Wide bytes = bytes_of(tensor);
    if (!buffers.holds(tensor, bytes)) {
        finding_ = buffers.check_range(tensor, bytes);
        return false;
    }
    known_[place].bytes = static_cast<uint64_t>(bytes);
    known_[place].held  = buffers.find(tensor.buffer)->device == summary_.device;
    return rows(tensor) * row_bytes(tensor) <= spread_ || refuse(Refusal::tensor_shape, "a tensor larger than the session's memory");
}

bool Graph::check_view(uint32_t place, uint32_t source, uint64_t offset) {
    const Tensor & tensor = tensors_[place];
    const Tensor & whole  = tensors_[source];
    if (tensor.buffer == 0 || whole.buffer == 0) {
        return true;
    }
    if (tensor.buffer != whole.buffer || tensor.data != whole.data + offset) {
        return refuse(Refusal::tensor_bounds, "a view is not where it says");
    }
    const uint64_t bytes = known_[place].bytes;
    return bytes == 0 || Wide(offset) + bytes <= known_[source].bytes || refuse(Refusal::tensor_bounds, "a view leaves its source");
}

// Places are filled one by one, so whatever is found stands earlier.
bool Graph::reach(uint32_t place, uint64_t id, bool itself_allowed, uint32_t & found, uint32_t & depth) const {
    found = places_.find(id);
    if (found == place) {
        return itself_allowed;
    }
    if (found != NO_TENSOR) {
        depth = std::max(depth, known_[found].depth + 1);
    }
    return found != NO_TENSOR;
}

bool Graph::check_references(uint32_t place, const References & references, const GraphLimits & limits) {
    Known &  known    = known_[place];
    uint32_t view_src = NO_TENSOR;
    uint32_t depth    = 1;
    bool     all      = references.view_src == 0 || reach(place, references.view_src, false, view_src, depth);
    for (uint32_t i = 0; i < references.slots; ++i) {
        known.sources[i] = NO_TENSOR;
        // ggml_cast gives its result as its own second source.
        all = (references.src[i] == 0 || reach(place, references.src[i], tensors_[place].op == OP_CPY && i == 1, known.sources[i], depth)) && all;
    }
    known.slots = references.slots;
    known.depth = depth;
    if (!all) {
        return refuse(Refusal::graph_reference, "tensor " + std::to_string(place) + " refers to itself, to a later one or to none");
    }
    if (known.depth > limits.depth) {
        return refuse(Refusal::graph_depth, "depth " + std::to_string(known.depth));
    }
    return view_src == NO_TENSOR || check_view(place, view_src, references.view_offs);
}

bool Graph::check_tensor(uint32_t place, const Buffers & buffers, const GraphLimits & limits) {
    const References references = read_references(entries_ + TENSOR_BYTES * place);
    const Tensor &   tensor     = tensors_[place];
    Known &          known      = known_[place];
    known.bytes                 = 0;
    known.listed                = false;
    known.held                  = false;
    if (references.id == 0 || !places_.add(references.id)) {
        return refuse(Refusal::graph_reference, "tensor " + std::to_string(place) + " has id " + std::to_string(references.id));
    }
    if (tensor.op >= OP_COUNT || (tensor.op >= MAP_CUSTOM1 && tensor.op <= CUSTOM)) {
        return refuse(Refusal::op_forbidden, "op " + std::to_string(tensor.op));
    }
    if (Finding finding = check_type_and_shape(tensor)) {
        finding_ = std::move(finding);
        return false;
    }
    return check_place_in_memory(place, buffers) && check_references(place, references, limits);
}

Node Graph::node_of(uint32_t place) const {
    const Known & known = known_[place];
    Node          node  = { &tensors_[place], {} };
    for (size_t i = 0; i < known.slots; ++i) {
        node.src[i] = known.sources[i] == NO_TENSOR ? nullptr : &tensors_[known.sources[i]];
    }
    return node;
}

bool Graph::lies_on_the_device(uint32_t place) const {
    const Known & known = known_[place];
    bool          held  = known.held;
    for (size_t i = 0; i < known.slots; ++i) {
        held = held && (known.sources[i] == NO_TENSOR || known_[known.sources[i]].held);
    }
    return held;
}

bool Graph::check_node(const uint8_t * id, const std::array<bool, OP_COUNT> & allowed_extra) {
    const uint32_t place = places_.find(load64(id));
    if (place == NO_TENSOR || known_[place].listed) {
        return refuse(Refusal::graph_reference, "id " + std::to_string(load64(id)) + (place == NO_TENSOR ? " is unknown" : " is listed twice"));
    }
    known_[place].listed = true;
    ++summary_.ops[tensors_[place].op];
    if (!touches_nothing(tensors_[place].op) && !lies_on_the_device(place)) {
        return refuse(Refusal::buffer_unknown, "a node or a source of it lies in no buffer of the device");
    }
    if (Finding finding = check_op(node_of(place), allowed_extra)) {
        finding_ = std::move(finding);
        return false;
    }
    return true;
}

Finding Graph::check(const uint8_t * payload, size_t size, uint32_t devices, const Buffers & buffers, const GraphLimits & limits,
                     const std::array<bool, OP_COUNT> & allowed_extra, GraphSummary & summary) {
    finding_ = {};
    if (!measure(payload, size, devices, limits)) {
        return finding_;
    }
    spread_ = Wide(buffers.allocated()) + SPREAD_BYTES;
    tensors_.resize(summary_.tensors);
    known_.resize(summary_.tensors);
    places_.reset(summary_.tensors);
    for (uint32_t place = 0; place < summary_.tensors; ++place) {
        read_tensor(entries_ + TENSOR_BYTES * place, tensors_[place]);
        if (!check_tensor(place, buffers, limits)) {
            finding_.op = static_cast<int>(tensors_[place].op);
            return finding_;
        }
    }
    for (uint32_t i = 0; i < summary_.nodes; ++i) {
        if (!check_node(ids_ + ID_BYTES * i, allowed_extra)) {
            finding_.node = i;
            return finding_;
        }
    }
    summary = summary_;
    if (tensors_.capacity() > KEPT_TENSORS) {
        tensors_ = {};
        known_   = {};
        places_.shrink();
    }
    return {};
}

}  // namespace

Finding check_graph(const uint8_t * payload, size_t size, uint32_t devices, const Buffers & buffers, const GraphLimits & limits,
                    const std::array<bool, OP_COUNT> & allowed_extra, GraphSummary & summary) {
    // Fresh pages for every graph would cost more than the check.
    thread_local Graph graph;
    return graph.check(payload, size, devices, buffers, limits, allowed_extra, summary);
}

}  // namespace rpcmesh::guard
