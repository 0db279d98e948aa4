// Reads a recording: what a client and a bare worker said to each other. tests/recordings/README.md has the format.
// Nothing here knows the guard's state.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "guard_frames.h"

namespace frames {

// A request or the reply to it. `kept` are the first bytes of `length` bytes of payload; the others were not kept.
struct Entry {
    bool     is_reply;
    uint8_t  command;
    uint64_t length;
    Bytes    kept;
};

struct Recorded {
    std::string        name;
    std::vector<Entry> entries;
};

// Nothing if `content` is no recording.
inline std::optional<std::vector<Recorded>> sessions_of(const Bytes & content) {
    constexpr char   MAGIC[]    = "RPCREC\x01\n";
    constexpr size_t MAGIC_SIZE = sizeof(MAGIC) - 1;
    constexpr size_t HEAD_BYTES = 14;  // u8 kind | u8 command | u32 kept | u64 length
    constexpr uint8_t SESSION = 0, REPLY = 2;

    std::vector<Recorded> sessions;
    if (content.size() < MAGIC_SIZE || !std::equal(MAGIC, MAGIC + MAGIC_SIZE, content.begin())) {
        return std::nullopt;
    }
    for (size_t at = MAGIC_SIZE; at < content.size();) {
        if (content.size() - at < HEAD_BYTES) {
            return std::nullopt;
        }
        const uint8_t * const head   = &content[at];
        const uint32_t        kept   = load32(head + 2);
        const uint64_t        length = load64(head + 6);
        at += HEAD_BYTES;
        if (kept > length || kept > content.size() - at || head[0] > REPLY || head[1] >= COMMAND_COUNT) {
            return std::nullopt;
        }
        const auto begin = content.begin() + static_cast<long>(at);
        const auto end   = begin + static_cast<long>(kept);
        if (head[0] == SESSION) {
            sessions.push_back({ std::string(begin, end), {} });
        } else if (sessions.empty()) {
            return std::nullopt;
        } else {
            sessions.back().entries.push_back({ head[0] == REPLY, head[1], length, Bytes(begin, end) });
        }
        at += kept;
    }
    return sessions;
}

// Where the tensors of a request begin in its payload.
inline std::vector<size_t> tensors_in(const Entry & request) {
    std::vector<size_t> places;
    const auto          add = [&](size_t first, size_t count) {
        for (size_t i = 0; i < count; ++i) {
            places.push_back(first + i * TENSOR_BYTES);
        }
    };
    switch (request.command) {
        case SET_TENSOR:
        case SET_TENSOR_HASH:
        case GET_TENSOR:
        case MEMSET_TENSOR:
        case INIT_TENSOR: add(0, 1); break;
        case COPY_TENSOR: add(0, 2); break;
        case GET_ALLOC_SIZE: add(4, 1 + MAX_SOURCES); break;
        case GRAPH_COMPUTE: {
            const size_t first = GRAPH_HEAD_BYTES + 8 * size_t(load32(&request.kept[4]));
            add(first, (request.kept.size() - first) / TENSOR_BYTES);
            break;
        }
        default: break;
    }
    return places;
}

}  // namespace frames
