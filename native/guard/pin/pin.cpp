// The ggml that the guard's tables were written for. Another one fails here, and not in front of a worker.
#include <ggml-rpc.h>
#include <ggml.h>

#include "guard/ops.h"
#include "guard/tensor.h"

namespace rpcmesh::guard {

static_assert(RPC_PROTO_MAJOR_VERSION == 7 && RPC_PROTO_MINOR_VERSION == 0 && RPC_PROTO_PATCH_VERSION == 0,
              "the guard's commands are those of protocol 7.0.0");
static_assert(GGML_OP_COUNT == OP_COUNT, "an op was added or removed: see ops.h");
static_assert(GGML_TYPE_COUNT == TYPE_COUNT, "a type was added or removed: see tensor.cpp");
static_assert(GGML_MAX_SRC == MAX_SOURCES && GGML_MAX_DIMS == 4 && GGML_MAX_OP_PARAMS == 64, "rpc_tensor has another shape");
static_assert(GGML_OP_MAP_CUSTOM1 == 92 && GGML_OP_CUSTOM == 95, "these carry a function pointer and are never allowed");

}  // namespace rpcmesh::guard
