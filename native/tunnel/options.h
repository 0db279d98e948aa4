// The command line, parsed once. Values are checked here; files are not opened.
#pragma once

#include <string>

#include "guard/guard.h"
#include "routes.h"

namespace rpcmesh {

struct Options {
    Mode        mode = Mode::ingress;
    std::string listen;
    std::string identity;
    std::string routes;
    std::string status;
    std::string to;
    int         max_connections     = 64;
    int         handshake_timeout_s = 10;
    int         silence_timeout_s   = 3;
    // Longer than a stuck worker takes to be noticed and started again: whoever comes next is served, not refused.
    int         lease_wait_ms       = 3000;
    // A client that does not finish its frame, or does not read its answers.
    int         stall_timeout_s     = 30;
    // A worker that does not answer.
    int         compute_timeout_s   = 120;
    // A worker whose client has left, before it is called stuck.
    int         reset_after_ms      = 1000;
    // All buffers of one RPC session together.
    int         memory_mib          = 65536;
    // What one RPC session may have and do, the memory included.
    guard::Limits limits;
};

extern const char * const usage;

// False and a one-line `error` if the arguments are not right.
bool parse_options(int argc, const char * const * argv, Options & options, std::string & error);

}  // namespace rpcmesh
