// The two streams of a session: where a frame begins and ends, what is kept of it, whose turn it is.
#include "guard.h"

#include <algorithm>

#include "state.h"
#include "wire.h"

namespace rpcmesh::guard {

using Kind = Step::Kind;

namespace {

// A client may send graphs without asking for anything; more of them than this, and it waits for the worker.
constexpr size_t MAX_AWAITED = 16;

}  // namespace

Step Guard::State::refuse(Finding what, int command) {
    finding = std::move(what);
    if (finding.command < 0) {
        finding.command = command;
    }
    return step(Kind::refuse);
}

Step Guard::State::replace(Kind kind, std::vector<uint8_t> bytes, size_t size) {
    skip        = size;
    Step result = step(kind);
    result.bytes = std::move(bytes);
    return result;
}

bool Guard::State::client_must_wait() const {
    return awaited.size() >= MAX_AWAITED || std::any_of(awaited.begin(), awaited.end(), [](const Awaited & reply) {
               return reply.whose != Awaited::Whose::end;
           });
}

Step Guard::State::from_client(uint8_t * data, size_t size) {
    if (finding) {
        return step(Kind::refuse);
    }
    if (skip > 0) {
        const size_t gone = std::min(skip, size);
        skip -= gone;
        return step(gone > 0 ? Kind::drop : Kind::need_more, gone);
    }
    if (payload_left > 0) {
        return graph.empty() ? continue_payload(size) : continue_graph(data, size);
    }
    if (new_buffer != 0) {
        return ask_for_base();
    }
    if (client_must_wait()) {
        return step(Kind::wait);
    }
    return size > 0 ? begin_request(data, size) : step(Kind::need_more);
}

Step Guard::State::begin_request(uint8_t * data, size_t size) {
    // The first byte already tells a stranger from a client.
    const uint8_t code = data[0];
    if (greeted == (code == HELLO)) {
        return refuse(found(Refusal::hello_invalid, greeted ? "a second HELLO" : "command " + std::to_string(code) + " before HELLO"), code);
    }
    if (code >= COMMAND_COUNT) {
        return refuse(found(Refusal::command_unknown, "command " + std::to_string(code)), code);
    }
    if (size < REQUEST_HEADER_BYTES) {
        return step(Kind::need_more);
    }
    const uint64_t length = load64(data + 1);
    if (!length_allowed(code, length, limits.memory_bytes, limits.graph)) {
        return refuse(found(greeted ? Refusal::length_invalid : Refusal::hello_invalid,
                            std::string(command_of(code).name) + " of " + std::to_string(length) + " bytes"),
                      code);
    }
    if (size < REQUEST_HEADER_BYTES + head_bytes(code)) {
        return step(Kind::need_more);
    }
    last_command = code;
    return (this->*requests[code])(data + REQUEST_HEADER_BYTES, length);
}

Step Guard::State::continue_payload(size_t size) {
    const size_t here = static_cast<size_t>(std::min<uint64_t>(payload_left, size));
    payload_left -= here;
    return step(here > 0 ? Kind::pass : Kind::need_more, here);
}

Step Guard::State::continue_graph(const uint8_t * data, size_t size) {
    const size_t here = static_cast<size_t>(std::min<uint64_t>(payload_left, size));
    if (here == 0) {
        return step(Kind::need_more);
    }
    // Memory follows the bytes that came, not the length that was claimed; most graphs are there after two of the pump's reads. The end has room for await_end's question.
    if (graph.capacity() < graph.size() + here + REQUEST_HEADER_BYTES) {
        graph.reserve(std::min<uint64_t>(graph.size() + payload_left, 4 * (graph.size() + here)) + REQUEST_HEADER_BYTES);
    }
    graph.insert(graph.end(), data, data + here);
    payload_left -= here;
    return payload_left > 0 ? step(Kind::drop, here) : whole_graph(here);
}

// The guard itself asks for the base: a client may name an address in a buffer before, or without, having asked. The
// question comes before the clearing, so that the client goes on while the worker clears.
Step Guard::State::ask_for_base() {
    const uint64_t real = buffers.find(new_buffer)->real_handle;
    Step           result = step(Kind::emit);
    append_header(result.bytes, BUFFER_GET_BASE, 8);
    append(result.bytes, real, 8);
    append_header(result.bytes, BUFFER_CLEAR, 9);
    append(result.bytes, real, 8);
    append(result.bytes, 0, 1);
    awaited.push_back({ BUFFER_GET_BASE, Awaited::Whose::base, command_of(BUFFER_GET_BASE).reply_bytes, 0, new_buffer });
    new_buffer = 0;
    return result;
}

Step Guard::State::from_worker(uint8_t * data, size_t size) {
    if (finding) {
        return step(Kind::refuse);
    }
    if (reply_left > 0) {
        return continue_reply(size);
    }
    if (size == 0) {
        return step(Kind::need_more);
    }
    if (awaited.empty()) {
        return refuse(found(Refusal::reply_invalid, "the worker sent bytes that nobody asked for"));
    }
    const Awaited & asked = awaited.front();
    if (size < REPLY_HEADER_BYTES) {
        return step(Kind::need_more);
    }
    const uint64_t length = load64(data);
    if (length != asked.bytes) {
        return refuse(found(Refusal::reply_invalid, "the worker replied " + std::to_string(length) + " bytes for " +
                                                        std::to_string(asked.bytes)),
                      asked.command);
    }
    if (asked.command == GET_TENSOR) {
        const size_t here = static_cast<size_t>(std::min<uint64_t>(length, size - REPLY_HEADER_BYTES));
        reply_left        = length - here;
        if (reply_left == 0) {
            awaited.pop_front();
        }
        return step(Kind::pass, REPLY_HEADER_BYTES + here);
    }
    if (size < REPLY_HEADER_BYTES + length) {
        return step(Kind::need_more);
    }
    const Awaited answered = asked;
    awaited.pop_front();
    return reply(answered, data + REPLY_HEADER_BYTES);
}

Step Guard::State::continue_reply(size_t size) {
    const size_t here = static_cast<size_t>(std::min<uint64_t>(reply_left, size));
    reply_left -= here;
    if (reply_left == 0) {
        awaited.pop_front();
    }
    return step(here > 0 ? Kind::pass : Kind::need_more, here);
}

Guard::Guard(const Limits & limits) : state_(std::make_unique<State>(limits)) {}

Guard::~Guard() = default;

bool Guard::greeted() const {
    return state_->greeted;
}

Step Guard::from_client(uint8_t * data, size_t size) {
    return state_->from_client(data, size);
}

Step Guard::from_worker(uint8_t * data, size_t size) {
    return state_->from_worker(data, size);
}

const Finding & Guard::finding() const {
    return state_->finding;
}

int Guard::last_command() const {
    return state_->last_command;
}

int Guard::worker_command() const {
    if (!worker_is_busy()) {
        return state_->last_command;
    }
    const State::Awaited & first = state_->awaited.front();
    return first.whose == State::Awaited::Whose::end ? static_cast<int>(first.subject) : first.command;
}

GraphSummary Guard::last_graph() const {
    return state_->last_graph;
}

bool Guard::is_in_frame() const {
    return state_->payload_left > 0;
}

bool Guard::worker_is_busy() const {
    return !state_->awaited.empty();
}

}  // namespace rpcmesh::guard
