// How long somebody has owed something without moving. Pure: the time is passed in.
#pragma once

#include <cstdint>

#include "fd.h"

namespace rpcmesh {

class StallClock {
public:
    explicit StallClock(std::chrono::milliseconds limit) : limit_(limit) {}

    // To be called now and again, with whether something is owed now and a count that grows with whatever is done about
    // it. True once it was owed at every look for the limit, and the count stood still.
    bool look(bool owed, uint64_t moved, TimePoint now);

private:
    const std::chrono::milliseconds limit_;
    bool                            runs_  = false;
    uint64_t                        moved_ = 0;
    TimePoint                       since_;
};

}  // namespace rpcmesh
