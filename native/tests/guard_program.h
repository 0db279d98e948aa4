// Made-up sessions: requests that are mostly right, of a client that knows its buffers, with a wrong one here and there.
// Chance is passed in, so that a session can come from a generator of numbers or from a fuzzer's bytes.
#pragma once

#include <functional>

#include "guard_relay.h"

namespace frames {

// A number below `below`, which is not 0.
using Chance = std::function<uint32_t(uint32_t below)>;

class Program {
public:
    // About `spoilt` requests of 1000 have something wrong.
    Program(Chance chance, uint32_t spoilt) : chance_(std::move(chance)), spoilt_(spoilt) {}

    // All that the client sent.
    Bytes sent;
    // Whether a frame's length was changed, so that frames end elsewhere than the client thinks.
    bool lost_count = false;

    // Goes on until `steps` requests were sent or one was refused.
    void run(Relay & relay, uint32_t steps) {
        tell(relay, hello(static_cast<uint8_t>(chance_(256))));
        for (uint32_t i = 0; i < steps && !relay.guard.finding(); ++i) {
            if (buffers_.empty() || (buffers_.size() < 6 && chance_(12) == 0)) {
                new_buffer(relay);
            } else {
                tell(relay, spoil(request()));
            }
        }
    }

private:
    // What somewhere() and a copy next to it fit into.
    static constexpr uint64_t ROOMY = 8192;

    struct Known {
        uint64_t handle;
        uint64_t base;
        uint32_t device;
    };

    Bytes tell(Relay & relay, const Bytes & request) {
        sent = std::move(sent) + request;
        return relay.ask(request);
    }

    void new_buffer(Relay & relay) {
        const uint64_t size   = chance_(20) == 0 ? odd_number() : ROOMY + chance_(1 << 16);
        const uint32_t device = chance_(FakeWorker::DEVICES);
        const Bytes    grant  = tell(relay, alloc(size, device));
        if (grant.size() < 24 || load64(&grant[8]) == 0) {
            return;
        }
        const uint64_t handle = load64(&grant[8]);
        const Bytes    base   = tell(relay, of_buffer(BUFFER_GET_BASE, handle));
        if (base.size() == 16 && load64(&grant[16]) >= ROOMY) {
            buffers_.push_back({ handle, load64(&base[8]), device });
        }
    }

    uint64_t odd_number() {
        constexpr uint64_t odd[] = { 0, 1, 255, 256, 4095, 0x7fffffff, 0x80000000, 0xffffffff, uint64_t(1) << 32, uint64_t(1) << 40,
                                     uint64_t(1) << 62, uint64_t(1) << 63, ~uint64_t(0), ~uint64_t(0) - 255 };
        return odd[chance_(std::size(odd))] + (chance_(4) == 0 ? chance_(1024) : 0);
    }

    // Forward or back, a little or past a buffer's end.
    uint64_t distance() {
        const uint64_t any = chance_(1 << 16);
        return any % 2 == 0 ? any / 128 - 256 : any - 32768;
    }

    // Floats or q4_1, up to 4 rows, somewhere in a buffer.
    Wanted somewhere() {
        const Known & buffer = buffers_[chance_(static_cast<uint32_t>(buffers_.size()))];
        Wanted        wanted;
        wanted.id     = 0x1000 + 8 * chance_(64);
        wanted.type   = chance_(3) == 0 ? Q4_1 : F32;
        wanted.ne     = { { 32 * (1 + chance_(4)), 1 + chance_(4), 1, 1 } };
        wanted.buffer = buffer.handle;
        wanted.data   = buffer.base + 32 * uint64_t(chance_(64));
        return wanted;
    }

    Bytes request() {
        const Wanted   one    = somewhere();
        const uint64_t bytes  = static_cast<uint64_t>(bytes_of(read_tensor(tensor(one).data())));
        const uint64_t offset = chance_(static_cast<uint32_t>(bytes));
        const uint64_t size   = chance_(static_cast<uint32_t>(bytes - offset) + 1);
        switch (chance_(15)) {
            case 0: return of_device(GET_ALIGNMENT, chance_(FakeWorker::DEVICES));
            case 1: return of_device(GET_DEVICE_MEMORY, chance_(FakeWorker::DEVICES));
            case 2: return chance_(4) == 0 ? free_one() : frame(DEVICE_COUNT, {});
            case 3: return clear(one.buffer, static_cast<uint8_t>(chance_(256)));
            case 4:
            case 5: return set(tensor(one), offset, Bytes(size, static_cast<uint8_t>(chance_(256))), static_cast<uint8_t>(chance_(2)));
            case 6: return set_hash(tensor(one), offset, chance_(1000));
            case 7:
            case 8: return get(tensor(one), offset, size);
            case 9: return fill(tensor(one), offset, size, 3);
            case 10: {
                Wanted target = one;
                target.data   = somewhere().data / 32 % 2 == 0 ? one.data : one.data + bytes;
                return copy(tensor(one), tensor(target));
            }
            case 11: return init(tensor(one));
            case 12: return chance_(2) == 0 ? alloc_size(tensor(one)) : alloc_size(tensor(Wanted{}), { tensor(one) });
            case 13: return sum(one);
            default: return has_graph_[0] ? of_device(GRAPH_RECOMPUTE, 0) : has_graph_[1] ? of_device(GRAPH_RECOMPUTE, 1) : sum(one);
        }
    }

    Bytes sum(const Wanted & at) {
        for (const Known & buffer : buffers_) {
            if (buffer.handle == at.buffer) {
                has_graph_[buffer.device] = true;
                return sum_graph(at.buffer, at.data, buffer.device);
            }
        }
        return {};
    }

    Bytes free_one() {
        const size_t   index  = chance_(static_cast<uint32_t>(buffers_.size()));
        const uint64_t handle = buffers_[index].handle;
        buffers_.erase(buffers_.begin() + static_cast<long>(index));
        has_graph_ = {};
        return of_buffer(FREE_BUFFER, handle);
    }

    // A byte, or a field where a tensor's fields are, or the frame's length.
    Bytes spoil(Bytes request) {
        if (chance_(1000) >= spoilt_) {
            return request;
        }
        constexpr size_t fields[] = { 8, 12, 20, 24, 28, 32, 36, 40, 44, 52, 124, 204, 212, 220, 296, 297, 304 };
        const size_t     at       = REQUEST_HEADER_BYTES + fields[chance_(std::size(fields))];
        switch (chance_(8)) {
            case 0:
                lost_count = true;
                store64(&request[1], chance_(2) == 0 ? odd_number() : load64(&request[1]) + chance_(64));
                return request;
            case 1: request[0] = static_cast<uint8_t>(chance_(20)); lost_count = true; return request;
            case 2: request[chance_(static_cast<uint32_t>(request.size()))] = static_cast<uint8_t>(chance_(256)); lost_count = true; return request;
            default: break;
        }
        if (at + 8 <= request.size()) {
            store(&request[at], chance_(2) == 0 ? odd_number() : load64(&request[at]) + distance(), chance_(2) == 0 ? 4 : 8);
        }
        return request;
    }

    Chance                                chance_;
    uint32_t                              spoilt_;
    std::vector<Known>                    buffers_;
    // By device: a graph that no free has made the worker forget.
    std::array<bool, FakeWorker::DEVICES> has_graph_{};
};

// Whether a number of the worker's is among what the client saw.
inline bool leaks(const Relay & relay) {
    for (size_t at = 0; at + 8 <= relay.to_client.size(); ++at) {
        if (relay.worker.is_secret(load64(&relay.to_client[at]))) {
            return true;
        }
    }
    return false;
}

}  // namespace frames
