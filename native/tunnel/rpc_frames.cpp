#include "rpc_frames.h"

#include <algorithm>
#include <cstring>

namespace rpcmesh {

namespace {

constexpr uint64_t MIB = 1024 * 1024;
constexpr uint64_t GIB = 1024 * MIB;

// Bytes of an rpc_tensor on the wire.
constexpr uint64_t TENSOR = 296;

struct Command {
    uint64_t min_bytes;
    uint64_t max_bytes;
};

constexpr uint8_t HELLO = 14;

// By command number; lengths of the payload.
constexpr std::array<Command, 18> commands = { {
    /*  0 ALLOC_BUFFER      */ { 12, 12 },
    /*  1 GET_ALIGNMENT     */ { 4, 4 },
    /*  2 GET_MAX_SIZE      */ { 4, 4 },
    /*  3 BUFFER_GET_BASE   */ { 8, 8 },
    /*  4 FREE_BUFFER       */ { 8, 8 },
    /*  5 BUFFER_CLEAR      */ { 9, 9 },
    /*  6 SET_TENSOR        */ { TENSOR + 9, TENSOR + 9 + 64 * GIB },
    /*  7 SET_TENSOR_HASH   */ { TENSOR + 16, TENSOR + 16 },
    /*  8 GET_TENSOR        */ { TENSOR + 16, TENSOR + 16 },
    /*  9 COPY_TENSOR       */ { 2 * TENSOR, 2 * TENSOR },
    /* 10 GRAPH_COMPUTE     */ { 12, 256 * MIB },
    /* 11 GET_DEVICE_MEMORY */ { 4, 4 },
    /* 12 INIT_TENSOR       */ { TENSOR, TENSOR },
    /* 13 GET_ALLOC_SIZE    */ { 4 + 11 * TENSOR, 4 + 11 * TENSOR },
    /* 14 HELLO             */ { HELLO_CAPS_BYTES, HELLO_CAPS_BYTES },
    /* 15 DEVICE_COUNT      */ { 0, 0 },
    /* 16 GRAPH_RECOMPUTE   */ { 4, 4 },
    /* 17 MEMSET_TENSOR     */ { TENSOR + 17, TENSOR + 17 },
} };

uint64_t little_endian(const uint8_t * bytes) {
    uint64_t value = 0;
    for (int i = 7; i >= 0; --i) {
        value = value << 8 | bytes[i];
    }
    return value;
}

}  // namespace

RequestFrames::Verdict RequestFrames::inspect(uint8_t * data, size_t size, size_t & passed) {
    passed = 0;
    while (passed < size) {
        const size_t here = static_cast<size_t>(std::min<uint64_t>(payload_left_, size - passed));
        payload_left_ -= here;
        passed += here;
        const size_t left = size - passed;
        if (left == 0) {
            break;
        }
        uint8_t *     frame   = data + passed;
        const uint8_t command = frame[0];
        // The first byte already tells a stranger from a client.
        if (greeted_ ? command >= commands.size() || command == HELLO : command != HELLO) {
            return greeted_ ? Verdict::frame_invalid : Verdict::hello_invalid;
        }
        if (left < FRAME_HEADER_BYTES) {
            break;
        }
        const uint64_t  length  = little_endian(frame + 1);
        const Command & allowed = commands[command];
        if (length < allowed.min_bytes || length > allowed.max_bytes) {
            return greeted_ ? Verdict::frame_invalid : Verdict::hello_invalid;
        }
        if (!greeted_) {
            if (left < HELLO_FRAME_BYTES) {
                break;
            }
            std::memset(frame + FRAME_HEADER_BYTES, 0, HELLO_CAPS_BYTES);
            greeted_ = true;
        }
        last_command_ = command;
        payload_left_ = length;
        passed += FRAME_HEADER_BYTES;
    }
    return Verdict::ok;
}

void ReplyCaps::zero(uint8_t * data, size_t size) {
    constexpr uint64_t begin = REPLY_HEADER_BYTES + HELLO_VERSION_BYTES;
    constexpr uint64_t end   = begin + HELLO_CAPS_BYTES;
    if (seen_ < end) {
        const uint64_t from = std::max(begin, seen_);
        const uint64_t to   = std::min<uint64_t>(end, seen_ + size);
        if (from < to) {
            std::memset(data + (from - seen_), 0, to - from);
        }
    }
    seen_ += size;
}

}  // namespace rpcmesh
