// What each op of a graph may look like: how many sources, of which types and shapes, with which parameters. A table a
// reader can check against ggml.h and ggml.c; an op without a row is refused.
#pragma once

#include <array>
#include <cstdint>

#include "refusal.h"
#include "tensor.h"

namespace rpcmesh::guard {

constexpr uint32_t OP_COUNT = 101;

const char * name_of_op(uint32_t op);
// Whether there is a rule for it.
bool is_op_known(uint32_t op);

// A node with its sources looked up; null where the client gave 0. All of them passed check_type_and_shape and lie in
// known buffers.
struct Node {
    const Tensor *                          self;
    std::array<const Tensor *, MAX_SOURCES> src;
};

// `allowed_extra`, by op number, are ops that have no rule and that the node's config allows by name.
Finding check_op(const Node & node, const std::array<bool, OP_COUNT> & allowed_extra);

}  // namespace rpcmesh::guard
