// A session under test that is past its first frames.
#pragma once

#include "guard_relay.h"

namespace frames {

// Greeted, with one buffer of a MiB on device 0.
struct Session : Relay {
    static constexpr uint64_t BUFFER_BYTES = uint64_t(1) << 20;

    explicit Session(const Limits & limits = Limits{}, Cut cut = all_at_once) : Relay(limits, std::move(cut)) {
        send(hello());
        handle = load64(&ask(alloc(BUFFER_BYTES))[8]);
        base   = load64(&ask(of_buffer(BUFFER_GET_BASE, handle))[8]);
    }

    // 64 floats at `offset` in the buffer.
    Wanted floats(uint64_t offset = 0) const {
        Wanted wanted;
        wanted.buffer = handle;
        wanted.data   = base + offset;
        return wanted;
    }

    FakeWorker::Buffer real() const { return worker.buffers.begin()->second; }
    uint64_t           real_handle() const { return worker.buffers.begin()->first; }

    // Sends it and says what it was refused for; a refused request must not have reached the worker.
    Refusal refused(const Bytes & request) {
        const size_t before = to_worker.size();
        send(request);
        if (guard.finding()) {
            CHECK_EQ(to_worker.size(), before);
        } else {
            CHECK_EQ(complaint(), "");
        }
        return refusal();
    }

    uint64_t handle = 0;
    uint64_t base   = 0;
};

inline const char * word(Refusal refusal) {
    return name_of(refusal);
}

}  // namespace frames

#define CHECK_REFUSED(request, expected) CHECK_EQ(std::string(frames::word(frames::Session().refused(request))), frames::word(rpcmesh::guard::Refusal::expected))
