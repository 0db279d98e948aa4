// What a client may ask, command by command. A request is changed in place: the client's handles and addresses become
// the worker's. What ggml-rpc.cpp would assert on, or follow out of a buffer, is refused here.
#include <algorithm>
#include <cstring>

#include "state.h"
#include "wire.h"

namespace rpcmesh::guard {

namespace {

// Rows of quantised tensors are padded to this many elements by the CUDA and SYCL backends (MATRIX_ROW_PADDING).
constexpr uint32_t ROW_PADDING = 512;

constexpr size_t TENSOR_OP_OFFSET = 52;

bool is_quantised(const Tensor & tensor) {
    return type_of(tensor.type).block > 1;
}

// What a backend may touch behind a tensor when it zeroes the padding of its last row.
Wide padded_bytes(const Tensor & tensor) {
    const uint32_t over = tensor.ne[0] % ROW_PADDING;
    if (!is_quantised(tensor) || over == 0) {
        return bytes_of(tensor);
    }
    const Type & type = type_of(tensor.type);
    return bytes_of(tensor) + Wide(ROW_PADDING - over) / type.block * type.bytes;
}

bool overlap(const Tensor & a, const Tensor & b, Wide size) {
    return Wide(a.data) < Wide(b.data) + size && Wide(b.data) < Wide(a.data) + size;
}

}  // namespace

const std::array<Guard::State::Request, COMMAND_COUNT> Guard::State::requests = { {
    &State::alloc_buffer,
    &State::of_device,        // GET_ALIGNMENT
    &State::of_device,        // GET_MAX_SIZE
    &State::buffer_get_base,
    &State::free_buffer,
    &State::buffer_clear,
    &State::set_tensor,
    &State::set_tensor_hash,
    &State::get_tensor,
    &State::copy_tensor,
    &State::graph_compute,
    &State::of_device,        // GET_DEVICE_MEMORY
    &State::init_tensor,
    &State::get_alloc_size,
    &State::hello,
    &State::of_nothing,       // DEVICE_COUNT
    &State::graph_recompute,
    &State::memset_tensor,
} };

Step Guard::State::forward(uint64_t payload_bytes) {
    const Command & rule = command_of(static_cast<uint8_t>(last_command));
    if (rule.reply == Reply::fixed) {
        awaited.push_back({ static_cast<uint8_t>(last_command), Awaited::Whose::client, rule.reply_bytes });
    }
    return step(Step::Kind::pass, REQUEST_HEADER_BYTES + static_cast<size_t>(payload_bytes));
}

Step Guard::State::answer(const std::vector<uint8_t> & payload, uint64_t length) {
    std::vector<uint8_t> bytes;
    append(bytes, payload.size(), 8);
    bytes.insert(bytes.end(), payload.begin(), payload.end());
    return replace(Step::Kind::answer, std::move(bytes), REQUEST_HEADER_BYTES + static_cast<size_t>(length));
}

Finding Guard::State::check_device(uint32_t device) const {
    const uint32_t count = devices.value_or(limits.devices);
    return device < count ? Finding{} : found(Refusal::device_unknown, "device " + std::to_string(device) + " of " + std::to_string(count));
}

// The whole tensor lies in a buffer of this session.
Finding Guard::State::check_tensor(const uint8_t * bytes, Tensor & tensor) const {
    read_tensor(bytes, tensor);
    if (Finding bad = check_type_and_shape(tensor)) {
        return bad;
    }
    return buffers.check_range(tensor, bytes_of(tensor));
}

// As check_tensor, or the tensor has no place yet; place() sees to it that it has no address either.
Finding Guard::State::check_unplaced(const uint8_t * bytes, Tensor & tensor) const {
    read_tensor(bytes, tensor);
    return tensor.buffer == 0 ? check_type_and_shape(tensor) : check_tensor(bytes, tensor);
}

// `size` bytes from `offset` are in the tensor. The worker cuts the connection when they begin at the buffer's end.
Finding Guard::State::check_part(const Tensor & tensor, uint64_t offset, Wide size) const {
    const Wide all = bytes_of(tensor);
    if (Wide(offset) + size > all || Wide(offset) >= all) {
        return found(Refusal::tensor_bounds, "offset " + std::to_string(offset) + " and size " +
                                                 std::to_string(static_cast<uint64_t>(size)) + " leave a tensor of " +
                                                 std::to_string(static_cast<uint64_t>(all)) + " bytes");
    }
    return {};
}

// Writes the worker's handle and address over the client's. Looks again at both, so that nothing unknown gets through
// here whatever was checked before.
Finding Guard::State::place(uint8_t * tensor) const {
    const uint64_t handle = load64(tensor + TENSOR_BUFFER_OFFSET);
    const uint64_t data   = load64(tensor + TENSOR_DATA_OFFSET);
    if (handle == 0 && data == 0) {
        return {};
    }
    const Buffer * buffer = buffers.find(handle);
    if (buffer == nullptr || buffer->real_base == 0) {
        return found(Refusal::buffer_unknown, "buffer " + std::to_string(handle) + " is not one of this session");
    }
    if (data < buffer->base || data - buffer->base > buffer->size) {
        return found(Refusal::tensor_bounds, "address " + std::to_string(data) + " is outside its buffer");
    }
    store64(tensor + TENSOR_BUFFER_OFFSET, buffer->real_handle);
    store64(tensor + TENSOR_DATA_OFFSET, data - buffer->base + buffer->real_base);
    return {};
}

Step Guard::State::hello(uint8_t * payload, uint64_t length) {
    std::memset(payload, 0, CAPS_BYTES);
    greeted = true;
    return forward(length);
}

Step Guard::State::of_nothing(uint8_t *, uint64_t length) {
    return forward(length);
}

Step Guard::State::of_device(uint8_t * payload, uint64_t length) {
    if (Finding bad = check_device(load32(payload))) {
        return refuse(std::move(bad));
    }
    return forward(length);
}

Step Guard::State::alloc_buffer(uint8_t * payload, uint64_t length) {
    const uint32_t device = load32(payload);
    const uint64_t size   = load64(payload + 4);
    if (Finding bad = check_device(device)) {
        return refuse(std::move(bad));
    }
    // A buffer of 0 is what ggml's client takes for "out of memory": the load fails, the process lives.
    if (!buffers.has_room(size)) {
        return answer(std::vector<uint8_t>(16), length);
    }
    const Step forwarded     = forward(length);
    awaited.back().device  = device;
    awaited.back().subject = size;
    return forwarded;
}

// Known since the worker granted the buffer.
Step Guard::State::buffer_get_base(uint8_t * payload, uint64_t length) {
    const Buffer * buffer = buffers.find(load64(payload));
    if (buffer == nullptr) {
        return refuse(found(Refusal::buffer_unknown, "buffer " + std::to_string(load64(payload)) + " is not one of this session"));
    }
    std::vector<uint8_t> base;
    append(base, buffer->base, 8);
    return answer(base, length);
}

Step Guard::State::free_buffer(uint8_t * payload, uint64_t length) {
    const uint64_t handle = load64(payload);
    const Buffer * buffer = buffers.find(handle);
    if (buffer == nullptr) {
        return refuse(found(Refusal::buffer_unknown, "buffer " + std::to_string(handle) + " is not one of this session"));
    }
    store64(payload, buffer->real_handle);
    buffers.remove(handle);
    // As the worker does: it forgets all graphs, whichever buffers they use.
    graph_stored.clear();
    return forward(length);
}

Step Guard::State::buffer_clear(uint8_t * payload, uint64_t length) {
    const Buffer * buffer = buffers.find(load64(payload));
    if (buffer == nullptr) {
        return refuse(found(Refusal::buffer_unknown, "buffer " + std::to_string(load64(payload)) + " is not one of this session"));
    }
    store64(payload, buffer->real_handle);
    return forward(length);
}

Step Guard::State::set_tensor(uint8_t * payload, uint64_t length) {
    Tensor  tensor;
    Finding bad = check_tensor(payload, tensor);
    if (!bad) {
        bad = check_part(tensor, load64(payload + TENSOR_BYTES + 1), length - SET_HEAD_BYTES);
    }
    if (!bad) {
        bad = place(payload);
    }
    if (bad) {
        return refuse(std::move(bad));
    }
    payload[TENSOR_BYTES] = 0;  // the worker keeps no cache
    payload_left          = length - SET_HEAD_BYTES;
    return forward(SET_HEAD_BYTES);
}

// "Not in the cache": whatever the hash is of, the worker's file of that name need not be what it seems.
Step Guard::State::set_tensor_hash(uint8_t * payload, uint64_t length) {
    Tensor  tensor;
    Finding bad = check_tensor(payload, tensor);
    if (!bad) {
        bad = check_part(tensor, load64(payload + TENSOR_BYTES), 0);
    }
    return bad ? refuse(std::move(bad)) : answer({ 0 }, length);
}

Step Guard::State::get_tensor(uint8_t * payload, uint64_t length) {
    const uint64_t size = load64(payload + TENSOR_BYTES + 8);
    Tensor         tensor;
    Finding        bad = check_tensor(payload, tensor);
    if (!bad) {
        bad = check_part(tensor, load64(payload + TENSOR_BYTES), size);
    }
    if (!bad && size > limits.read_bytes) {
        bad = found(Refusal::tensor_bounds, "a read of " + std::to_string(size) + " bytes");
    }
    if (!bad) {
        bad = place(payload);
    }
    if (bad) {
        return refuse(std::move(bad));
    }
    awaited.push_back({ GET_TENSOR, Awaited::Whose::client, size });
    return forward(length);
}

Step Guard::State::memset_tensor(uint8_t * payload, uint64_t length) {
    Tensor  tensor;
    Finding bad = check_tensor(payload, tensor);
    if (!bad) {
        bad = check_part(tensor, load64(payload + TENSOR_BYTES), load64(payload + TENSOR_BYTES + 8));
    }
    if (!bad) {
        bad = place(payload);
    }
    return bad ? refuse(std::move(bad)) : forward(length);
}

// The worker writes the source's bytes to the target's address: they must fit the target tensor, not only its buffer.
Step Guard::State::copy_tensor(uint8_t * payload, uint64_t length) {
    Tensor  source;
    Tensor  target;
    Finding bad = check_tensor(payload, source);
    if (!bad) {
        bad = check_tensor(payload + TENSOR_BYTES, target);
    }
    const Wide size = bad ? 0 : bytes_of(source);
    if (!bad && size > bytes_of(target)) {
        bad = found(Refusal::tensor_bounds, "a copy of more bytes than the target has");
    }
    // memcpy's source and target may not overlap; the same tensor twice does no harm.
    if (!bad && source.data != target.data && overlap(source, target, size)) {
        bad = found(Refusal::tensor_bounds, "a copy that overlaps itself");
    }
    for (const size_t at : { size_t(0), TENSOR_BYTES }) {
        if (!bad) {
            bad = place(payload + at);
        }
    }
    return bad ? refuse(std::move(bad)) : forward(length);
}

// CUDA zeroes the padding behind a quantised tensor, also past its buffer's end. A client of a CUDA worker has left room
// for it; where there is none the worker has nothing to do, and all bytes of a buffer were cleared anyway.
Step Guard::State::init_tensor(uint8_t * payload, uint64_t length) {
    Tensor  tensor;
    Finding bad = check_tensor(payload, tensor);
    if (!bad && is_quantised(tensor) && tensor.nb[0] != type_of(tensor.type).bytes) {
        bad = found(Refusal::tensor_shape, "blocks that do not lie side by side");
    }
    if (bad) {
        return refuse(std::move(bad));
    }
    if (buffers.check_range(tensor, padded_bytes(tensor))) {
        return step(Step::Kind::drop, REQUEST_HEADER_BYTES + static_cast<size_t>(length));
    }
    bad = place(payload);
    // A backend computes the padding by op, and some ops have it look at sources that are not there.
    store(payload + TENSOR_OP_OFFSET, 0, 4);
    return bad ? refuse(std::move(bad)) : forward(length);
}

// Backends look at shapes and sources by op, as if the tensor were about to be computed.
Step Guard::State::get_alloc_size(uint8_t * payload, uint64_t length) {
    Tensor                          self;
    std::array<Tensor, MAX_SOURCES> sources;
    Node                            node  = { &self, {} };
    Finding                         bad   = check_device(load32(payload));
    uint8_t * const                 first = payload + 4;
    for (size_t i = 0; i <= MAX_SOURCES && !bad; ++i) {
        uint8_t * const bytes = first + i * TENSOR_BYTES;
        if (i > 0 && load64(bytes) == 0) {
            std::memset(bytes, 0, TENSOR_BYTES);  // the worker ignores a source without an id
            continue;
        }
        bad = check_unplaced(bytes, i == 0 ? self : sources[i - 1]);
        if (!bad) {
            bad = place(bytes);
        }
        if (i > 0) {
            node.src[i - 1] = &sources[i - 1];
        }
    }
    if (!bad && is_quantised(self) && self.nb[0] != type_of(self.type).bytes) {
        bad = found(Refusal::tensor_shape, "blocks that do not lie side by side");
    }
    if (!bad && self.op != 0 && !is_empty(self)) {
        bad = check_op(node, limits.allowed_extra);
    }
    if (bad) {
        return refuse(std::move(bad));
    }
    if (is_empty(self)) {
        // A graph without outputs has such nodes. No backend computes them, so none needs memory for its op.
        store(first + TENSOR_OP_OFFSET, 0, 4);
    }
    return forward(length);
}

Step Guard::State::graph_compute(uint8_t * payload, uint64_t length) {
    graph.assign(payload - REQUEST_HEADER_BYTES, payload);
    payload_left = length;
    return step(Step::Kind::drop, REQUEST_HEADER_BYTES);
}

// `size` are the last bytes of it, which the front still has.
Step Guard::State::whole_graph(size_t size) {
    uint8_t * const payload = graph.data() + REQUEST_HEADER_BYTES;
    const size_t    bytes   = graph.size() - REQUEST_HEADER_BYTES;
    GraphSummary    summary;
    Finding         bad = check_graph(payload, bytes, devices.value_or(limits.devices), buffers, limits.graph, limits.allowed_extra, summary);
    const uint64_t  tensors = GRAPH_HEAD_BYTES + 8 * uint64_t(load32(payload + 4));
    if (!bad && (tensors > bytes || (bytes - tensors) % TENSOR_BYTES != 0)) {
        bad = found(Refusal::graph_length, std::to_string(bytes) + " bytes");
    }
    for (uint64_t at = tensors; !bad && at < bytes; at += TENSOR_BYTES) {
        bad = place(payload + at);
    }
    if (bad) {
        return refuse(std::move(bad));
    }
    graph_stored.resize(std::max<size_t>(graph_stored.size(), size_t(summary.device) + 1));
    graph_stored[summary.device] = true;
    last_graph                   = summary;
    await_end(graph);
    std::vector<uint8_t> whole = std::move(graph);
    graph.clear();
    return replace(Step::Kind::emit, std::move(whole), size);
}

Step Guard::State::graph_recompute(uint8_t * payload, uint64_t length) {
    const uint32_t device = load32(payload);
    if (Finding bad = check_device(device)) {
        return refuse(std::move(bad));
    }
    if (device >= graph_stored.size() || !graph_stored[device]) {
        return refuse(found(Refusal::recompute_without_graph, "device " + std::to_string(device) + " has no graph of this session"));
    }
    std::vector<uint8_t> bytes(payload - REQUEST_HEADER_BYTES, payload + length);
    await_end(bytes);
    return replace(Step::Kind::emit, std::move(bytes), REQUEST_HEADER_BYTES + static_cast<size_t>(length));
}

// A graph has no reply, so nobody outside could tell a long one from an idle worker. The shortest question behind it is
// answered when it is computed.
void Guard::State::await_end(std::vector<uint8_t> & after) {
    append_header(after, DEVICE_COUNT, 0);
    awaited.push_back({ DEVICE_COUNT, Awaited::Whose::end, command_of(DEVICE_COUNT).reply_bytes, 0, static_cast<uint64_t>(last_command) });
}

}  // namespace rpcmesh::guard
