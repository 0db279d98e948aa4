// Moves bytes both ways between two ends until one of them ends. The ends are TLS over TCP or a plain socket.
#pragma once

#include "end.h"
#include "flow.h"
#include "guard/guard.h"
#include "reason.h"
#include "registry.h"
#include "stall_clock.h"

namespace rpcmesh {

// How long one side may leave the other waiting. All but the first hold where there is a guard.
struct Patience {
    int silence_ms;      // a peer whose machine does not answer
    int stall_ms;        // a client that does not finish a frame, or does not read its answers
    int compute_ms;      // a worker that does not answer
    int reset_after_ms;  // a worker whose client has left
};

struct Ended {
    Reason reason      = Reason::none;
    bool   worker_left = false;  // the near side ended, and not because the client had
    bool   delivered   = true;   // the near side has taken all that it was to get
    bool   overdue     = false;  // the client has left, and the worker did nothing about it for reset_after_ms
};

// `far` is the network's side, `near` the local one. `guard` stands between the two, and is null where the bytes are not
// RPC; frame_invalid and reply_invalid: see its finding.
Ended pump(End & far, End & near, const Early & early, guard::Guard * guard, Session & session, const Patience & patience);

}  // namespace rpcmesh
