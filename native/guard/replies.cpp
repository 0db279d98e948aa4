// What a worker may reply. A reply is changed in place: the worker's handles become the client's, and what would lead
// around the tunnel or beyond the quota is taken out.
#include <algorithm>
#include <cstring>

#include "state.h"
#include "wire.h"

namespace rpcmesh::guard {

namespace {

constexpr std::array<uint8_t, 4> PROTOCOL = { 7, 0, 0, 0 };  // major, minor, patch, padding

}  // namespace

Step Guard::State::reply(const Awaited & asked, uint8_t * payload) {
    Finding bad;
    switch (asked.command) {
        case HELLO:
            if (!std::equal(PROTOCOL.begin(), PROTOCOL.end(), payload)) {
                bad = found(Refusal::reply_invalid, "the worker speaks protocol " + std::to_string(payload[0]) + "." +
                                                        std::to_string(payload[1]) + "." + std::to_string(payload[2]));
            }
            std::memset(payload + PROTOCOL.size(), 0, CAPS_BYTES);
            break;
        case DEVICE_COUNT:
            // Only the client's own question counts, or a verdict would depend on how fast a graph was computed.
            if (asked.whose == Awaited::Whose::client) {
                devices = std::min(load32(payload), limits.devices);
                store(payload, *devices, 4);
            }
            break;
        case GET_DEVICE_MEMORY:
            store64(payload, std::min(load64(payload), buffers.room()));
            break;
        case ALLOC_BUFFER:
            bad = granted(asked, payload);
            break;
        case BUFFER_GET_BASE: {
            const uint64_t real = load64(payload);
            const Buffer * buffer = buffers.find(asked.subject);
            if (real == 0 || real > UINT64_MAX - buffer->size) {
                bad = found(Refusal::reply_invalid, "a buffer's base is " + std::to_string(real));
            } else {
                buffers.set_real_base(asked.subject, real);
            }
            break;
        }
        default:
            break;
    }
    if (bad) {
        return refuse(std::move(bad), asked.command);
    }
    const size_t size = REPLY_HEADER_BYTES + static_cast<size_t>(asked.bytes);
    return step(asked.whose == Awaited::Whose::client ? Step::Kind::pass : Step::Kind::drop, size);
}

Finding Guard::State::granted(const Awaited & asked, uint8_t * payload) {
    const uint64_t real = load64(payload);
    const uint64_t size = load64(payload + 8);
    if (real == 0 && size == 0) {
        return {};
    }
    if (real == 0 || size < asked.subject || size > MAX_BUFFER_BYTES || buffers.find_real(real) != nullptr) {
        return found(Refusal::reply_invalid, "the worker granted " + std::to_string(size) + " bytes for " +
                                                 std::to_string(asked.subject) + (size < asked.subject ? "" : " in a buffer there is"));
    }
    new_buffer = buffers.add(asked.device, real, size).handle;
    store64(payload, new_buffer);
    return {};
}

}  // namespace rpcmesh::guard
