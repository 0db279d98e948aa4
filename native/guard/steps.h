// Strides, paddings and the like among an op's parameters.
#pragma once

#include "op_rule.h"

namespace rpcmesh::guard {

// Beyond any picture, and no product of two of them and a size leaves 64 bits.
constexpr int32_t MAX_STEP = 1 << 20;

// Strides and dilations are at least 1, paddings at least 0.
inline bool are_steps(const Node & node, size_t first, size_t last, int32_t least) {
    for (size_t i = first; i <= last; ++i) {
        if (parameter(node, i) < least || parameter(node, i) > MAX_STEP) {
            return false;
        }
    }
    return true;
}

}  // namespace rpcmesh::guard
