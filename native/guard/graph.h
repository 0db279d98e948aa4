// A GRAPH_COMPUTE payload: u32 device | u32 n | u64 ids[n] | u32 m | rpc_tensor[m]. References point to earlier
// entries only, every id is there once, every executed node and each of its sources lies in a known buffer.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "buffers.h"
#include "ops.h"
#include "refusal.h"

namespace rpcmesh::guard {

struct GraphLimits {
    uint32_t nodes   = 65536;
    uint32_t tensors = 131072;
    uint32_t depth   = 32768;
};

struct GraphSummary {
    uint32_t device  = 0;
    uint32_t nodes   = 0;
    uint32_t tensors = 0;
    // How many nodes there are of each op.
    std::array<uint32_t, OP_COUNT> ops{};
};

// Checks the whole payload. `summary` is filled in when it is accepted.
Finding check_graph(const uint8_t * payload, size_t size, uint32_t devices, const Buffers & buffers, const GraphLimits & limits,
                    const std::array<bool, OP_COUNT> & allowed_extra, GraphSummary & summary);

}  // namespace rpcmesh::guard
