#include "refusal.h"

namespace rpcmesh::guard {

const char * name_of(Refusal refusal) {
    switch (refusal) {
        case Refusal::none:                    return "none";
        case Refusal::hello_invalid:           return "hello_invalid";
        case Refusal::command_unknown:         return "command_unknown";
        case Refusal::length_invalid:          return "length_invalid";
        case Refusal::device_unknown:          return "device_unknown";
        case Refusal::buffer_unknown:          return "buffer_unknown";
        case Refusal::buffer_full:             return "buffer_full";
        case Refusal::tensor_type:             return "tensor_type";
        case Refusal::tensor_shape:            return "tensor_shape";
        case Refusal::tensor_bounds:           return "tensor_bounds";
        case Refusal::graph_length:            return "graph_length";
        case Refusal::graph_reference:         return "graph_reference";
        case Refusal::graph_depth:             return "graph_depth";
        case Refusal::graph_too_large:         return "graph_too_large";
        case Refusal::op_forbidden:            return "op_forbidden";
        case Refusal::op_sources:              return "op_sources";
        case Refusal::op_shape:                return "op_shape";
        case Refusal::op_type:                 return "op_type";
        case Refusal::op_parameter:            return "op_parameter";
        case Refusal::recompute_without_graph: return "recompute_without_graph";
        case Refusal::reply_invalid:           return "reply_invalid";
    }
    return "unknown";
}

}  // namespace rpcmesh::guard
