// The 18 commands of protocol 7.0.0: how long a request may be and what the worker replies. A row is a fact about
// llama.cpp's ggml-rpc.cpp; what the payloads say is judged elsewhere.
#pragma once

#include <cstddef>
#include <cstdint>

#include "graph.h"
#include "tensor.h"

namespace rpcmesh::guard {

enum CommandCode : uint8_t {
    ALLOC_BUFFER,
    GET_ALIGNMENT,
    GET_MAX_SIZE,
    BUFFER_GET_BASE,
    FREE_BUFFER,
    BUFFER_CLEAR,
    SET_TENSOR,
    SET_TENSOR_HASH,
    GET_TENSOR,
    COPY_TENSOR,
    GRAPH_COMPUTE,
    GET_DEVICE_MEMORY,
    INIT_TENSOR,
    GET_ALLOC_SIZE,
    HELLO,
    DEVICE_COUNT,
    GRAPH_RECOMPUTE,
    MEMSET_TENSOR,
};

constexpr size_t COMMAND_COUNT = 18;

constexpr size_t SET_HEAD_BYTES   = TENSOR_BYTES + 9;  // tensor, u8 cache_flag, u64 offset; the data is behind it
constexpr size_t CAPS_BYTES       = 24;
constexpr size_t GRAPH_HEAD_BYTES = 12;                // u32 device, u32 n, u32 m

enum class Reply : uint8_t {
    none,
    fixed,
    as_asked,  // as many bytes as the request says
};

struct Command {
    const char * name;
    uint64_t     payload_bytes;  // the least, and but for SET_TENSOR and GRAPH_COMPUTE also the most
    Reply        reply;
    uint32_t     reply_bytes;    // where it is fixed
};

// For code < COMMAND_COUNT.
const Command & command_of(uint8_t code);

// Whether a request may announce `length` bytes of payload. No tensor is larger than all of a session's memory.
bool length_allowed(uint8_t code, uint64_t length, uint64_t memory_bytes, const GraphLimits & limits);

// The part of a payload that is looked at before any of it is forwarded; for a graph nothing, as it is kept whole.
size_t head_bytes(uint8_t code);

}  // namespace rpcmesh::guard
