#include "commands.h"

#include <array>

namespace rpcmesh::guard {

namespace {

constexpr uint64_t TENSOR = TENSOR_BYTES;

constexpr std::array<Command, COMMAND_COUNT> commands = { {
    { "ALLOC_BUFFER", 12, Reply::fixed, 16 },                      // u32 device, u64 size; handle, size
    { "GET_ALIGNMENT", 4, Reply::fixed, 8 },                       // u32 device
    { "GET_MAX_SIZE", 4, Reply::fixed, 8 },                        // u32 device
    { "BUFFER_GET_BASE", 8, Reply::fixed, 8 },                     // u64 buffer
    { "FREE_BUFFER", 8, Reply::none, 0 },                          // u64 buffer
    { "BUFFER_CLEAR", 9, Reply::none, 0 },                         // u64 buffer, u8 value
    { "SET_TENSOR", SET_HEAD_BYTES, Reply::none, 0 },              // tensor, u8 cache_flag, u64 offset, data
    { "SET_TENSOR_HASH", TENSOR + 16, Reply::fixed, 1 },           // tensor, u64 offset, u64 hash
    { "GET_TENSOR", TENSOR + 16, Reply::as_asked, 0 },             // tensor, u64 offset, u64 size
    { "COPY_TENSOR", 2 * TENSOR, Reply::fixed, 1 },                // source, target
    { "GRAPH_COMPUTE", GRAPH_HEAD_BYTES + 8 + TENSOR, Reply::none, 0 },  // u32 device, u32 n, u64[n], u32 m, tensor[m]
    { "GET_DEVICE_MEMORY", 4, Reply::fixed, 16 },                  // u32 device; free, total
    { "INIT_TENSOR", TENSOR, Reply::none, 0 },                     // tensor
    { "GET_ALLOC_SIZE", 4 + 11 * TENSOR, Reply::fixed, 8 },        // u32 device, tensor, its ten sources
    { "HELLO", CAPS_BYTES, Reply::fixed, 4 + CAPS_BYTES },         // caps; major, minor, patch, 0, caps
    { "DEVICE_COUNT", 0, Reply::fixed, 4 },
    { "GRAPH_RECOMPUTE", 4, Reply::none, 0 },                      // u32 device
    { "MEMSET_TENSOR", TENSOR + 17, Reply::none, 0 },              // tensor, u64 offset, u64 size, u8 value
} };

uint64_t most_bytes(uint8_t code, uint64_t memory_bytes, const GraphLimits & limits) {
    switch (code) {
        case SET_TENSOR:
            // Saturates rather than wraps: a quota of 2^64 - 1 means none.
            return memory_bytes > UINT64_MAX - SET_HEAD_BYTES ? UINT64_MAX : SET_HEAD_BYTES + memory_bytes;
        case GRAPH_COMPUTE:
            return GRAPH_HEAD_BYTES + 8 * uint64_t(limits.nodes) + TENSOR * limits.tensors;
        default:
            return commands[code].payload_bytes;
    }
}

}  // namespace

const Command & command_of(uint8_t code) {
    return commands[code];
}

bool length_allowed(uint8_t code, uint64_t length, uint64_t memory_bytes, const GraphLimits & limits) {
    return length >= commands[code].payload_bytes && length <= most_bytes(code, memory_bytes, limits);
}

size_t head_bytes(uint8_t code) {
    return code == GRAPH_COMPUTE ? 0 : static_cast<size_t>(commands[code].payload_bytes);
}

}  // namespace rpcmesh::guard
