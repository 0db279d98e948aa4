// What a guard remembers of its session. Private to guard.cpp (the two streams), requests.cpp (what a client may ask) and
// replies.cpp (what a worker may answer).
#pragma once

#include <deque>
#include <optional>

#include "commands.h"
#include "guard.h"

namespace rpcmesh::guard {

inline Finding found(Refusal refusal, std::string detail) {
    Finding finding;
    finding.refusal = refusal;
    finding.detail  = std::move(detail);
    return finding;
}

struct Guard::State {
    // A reply that the worker owes.
    struct Awaited {
        enum class Whose {
            client,  // forwarded, and the client sends nothing before it has it
            base,    // the guard's own question for a new buffer's address; the client waits as well
            end,     // the guard's own question behind a graph, answered when it is computed; nobody waits
        };
        uint8_t  command;
        Whose    whose;
        uint64_t bytes;
        uint32_t device  = 0;  // ALLOC_BUFFER: the device asked
        uint64_t subject = 0;  // ALLOC_BUFFER: the size asked for; BUFFER_GET_BASE: the client's handle; end: the graph's command
    };

    explicit State(const Limits & session_limits) : limits(session_limits), buffers(session_limits.memory_bytes) {}

    // --- guard.cpp
    Step from_client(uint8_t * data, size_t size);
    Step from_worker(uint8_t * data, size_t size);
    Step begin_request(uint8_t * data, size_t size);
    Step continue_payload(size_t size);
    Step continue_graph(const uint8_t * data, size_t size);
    Step continue_reply(size_t size);
    Step ask_for_base();
    bool client_must_wait() const;

    Step refuse(Finding what, int command);
    Step refuse(Finding what) { return refuse(std::move(what), last_command); }
    // Sends `bytes` instead of the first `size` of the front, which are dropped with the next step.
    Step replace(Step::Kind kind, std::vector<uint8_t> bytes, size_t size);

    // --- requests.cpp: each gets a request's head, frame header in front and all there, and changes it in place.
    using Request = Step (State::*)(uint8_t * payload, uint64_t length);
    static const std::array<Request, COMMAND_COUNT> requests;

    Step hello(uint8_t * payload, uint64_t length);
    Step of_device(uint8_t * payload, uint64_t length);
    Step of_nothing(uint8_t * payload, uint64_t length);
    Step alloc_buffer(uint8_t * payload, uint64_t length);
    Step buffer_get_base(uint8_t * payload, uint64_t length);
    Step free_buffer(uint8_t * payload, uint64_t length);
    Step buffer_clear(uint8_t * payload, uint64_t length);
    Step set_tensor(uint8_t * payload, uint64_t length);
    Step set_tensor_hash(uint8_t * payload, uint64_t length);
    Step get_tensor(uint8_t * payload, uint64_t length);
    Step memset_tensor(uint8_t * payload, uint64_t length);
    Step copy_tensor(uint8_t * payload, uint64_t length);
    Step init_tensor(uint8_t * payload, uint64_t length);
    Step get_alloc_size(uint8_t * payload, uint64_t length);
    Step graph_recompute(uint8_t * payload, uint64_t length);
    Step graph_compute(uint8_t * payload, uint64_t length);
    Step whole_graph(size_t size);

    Step    forward(uint64_t payload_bytes);
    Step    answer(const std::vector<uint8_t> & payload, uint64_t length);
    void    await_end(std::vector<uint8_t> & after);
    Finding check_device(uint32_t device) const;
    Finding check_tensor(const uint8_t * bytes, Tensor & tensor) const;
    Finding check_unplaced(const uint8_t * bytes, Tensor & tensor) const;
    Finding check_part(const Tensor & tensor, uint64_t offset, Wide size) const;
    Finding place(uint8_t * tensor) const;

    // --- replies.cpp: a whole reply but that of GET_TENSOR; changes it in place.
    Step    reply(const Awaited & asked, uint8_t * payload);
    Finding granted(const Awaited & asked, uint8_t * payload);

    const Limits limits;
    Buffers      buffers;
    Finding      finding;
    bool         greeted      = false;
    int          last_command = -1;
    GraphSummary last_graph;
    // What DEVICE_COUNT replied, at most limits.devices.
    std::optional<uint32_t> devices;
    // By device: whether the worker keeps a graph that GRAPH_RECOMPUTE would run.
    std::vector<bool>       graph_stored;

    // The client's direction.
    size_t               skip         = 0;  // bytes of the front that were replaced
    uint64_t             payload_left = 0;
    std::vector<uint8_t> graph;             // frame header and what came of the payload; empty: none is collected
    uint64_t             new_buffer   = 0;  // its base is to be asked for before anything else is forwarded

    // The worker's direction.
    std::deque<Awaited> awaited;
    uint64_t            reply_left = 0;
};

inline Step step(Step::Kind kind, size_t size = 0) {
    Step result;
    result.kind = kind;
    result.size = size;
    return result;
}

}  // namespace rpcmesh::guard
