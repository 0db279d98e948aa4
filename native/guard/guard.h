// One RPC session between a client that is not trusted and a worker that is not safe: bytes in, verdicts and bytes
// out. No I/O and no clock. Protocol 7.0.0.
//
// The caller owns one buffer for each direction and asks what to do with its front. Payloads of SET_TENSOR pass in place
// and are never copied; a graph is kept until it is whole.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "buffers.h"
#include "graph.h"
#include "refusal.h"

namespace rpcmesh::guard {

struct Limits {
    uint64_t                   memory_bytes = uint64_t(64) << 30;  // all buffers of a session together
    uint32_t                   devices      = 16;
    uint64_t                   read_bytes   = uint64_t(1) << 30;   // one GET_TENSOR
    GraphLimits                graph;
    std::array<bool, OP_COUNT> allowed_extra{};
};

// What to do with the front of a direction's bytes.
struct Step {
    enum class Kind {
        need_more,  // nothing, before more bytes have come
        wait,       // nothing, before the other direction has moved (a reply is outstanding)
        pass,       // forward the first `size` bytes, which were changed in place where they had to be
        drop,       // forget the first `size` bytes; the guard has them or does without
        emit,       // send `bytes` to where this direction goes; nothing of the front is used up
        answer,     // send `bytes` to where this direction comes from; nothing of the front is used up
        refuse,     // close the session: see finding()
    };
    Kind                 kind = Kind::need_more;
    size_t               size = 0;
    std::vector<uint8_t> bytes;
};

class Guard {
public:
    explicit Guard(const Limits & limits);
    ~Guard();

    // Whether a whole and valid HELLO was seen.
    bool greeted() const;

    // The next step for the front of the client's bytes, and of the worker's. May be asked with size 0.
    Step from_client(uint8_t * data, size_t size);
    Step from_worker(uint8_t * data, size_t size);

    const Finding & finding() const;

    // For the log: the last command that began (-1 before the first), the one that the worker is at as far as its answers
    // tell, and the summary of the last graph.
    int          last_command() const;
    int          worker_command() const;
    GraphSummary last_graph() const;
    // Whether the client has begun a payload and not ended it.
    bool         is_in_frame() const;
    // Whether the worker computes or owes an answer now, for a watchdog outside.
    bool         worker_is_busy() const;

private:
    struct State;
    std::unique_ptr<State> state_;
};

}  // namespace rpcmesh::guard
