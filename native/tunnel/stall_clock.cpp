#include "stall_clock.h"

namespace rpcmesh {

bool StallClock::look(bool owed, uint64_t moved, TimePoint now) {
    if (!owed || !runs_ || moved != moved_) {
        runs_  = owed;
        moved_ = moved;
        since_ = now;
    }
    return runs_ && now - since_ >= limit_;
}

}  // namespace rpcmesh
