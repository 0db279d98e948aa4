// What this build is called. RPC_PROTOCOL is what the guard was written for.
#pragma once

namespace rpcmesh {

constexpr const char * TUNNEL_VERSION = "0.1.0";
constexpr const char * RPC_PROTOCOL   = "7.0.0";

}  // namespace rpcmesh
