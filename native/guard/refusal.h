// Why the guard refuses what a client sent: one word for the log and for counters, and where it stood.
#pragma once

#include <cstdint>
#include <string>

namespace rpcmesh::guard {

enum class Refusal {
    none,
    hello_invalid,
    command_unknown,
    length_invalid,
    device_unknown,
    buffer_unknown,
    buffer_full,        // more memory than the session may have
    tensor_type,
    tensor_shape,
    tensor_bounds,      // data, offset or size outside the tensor or its buffer
    graph_length,
    graph_reference,    // an id that is 0, unknown, doubled, or not defined before its use
    graph_depth,
    graph_too_large,
    op_forbidden,
    op_sources,
    op_shape,
    op_type,
    op_parameter,
    recompute_without_graph,
    reply_invalid,      // the worker's own answer makes no sense
};

const char * name_of(Refusal refusal);

// What was refused. `op` is the graph's op number and `node` its place among the nodes, -1 where there is none;
// `detail` is for the log, in words.
struct Finding {
    Refusal     refusal = Refusal::none;
    int         command = -1;
    int         op      = -1;
    int64_t     node    = -1;
    std::string detail;

    // Written out: one is made for every tensor of a graph, and setting all of it to zero first would cost more than its check.
    Finding() {}

    explicit operator bool() const { return refusal != Refusal::none; }
};

}  // namespace rpcmesh::guard
