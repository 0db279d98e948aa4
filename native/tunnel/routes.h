// The routes file: which ALPN leads where, and whose certificate may use it. Parsed whole or refused whole.
#pragma once

#include <map>
#include <string>
#include <vector>

namespace rpcmesh {

constexpr const char * RPC_ALPN_PREFIX = "rpcmesh/rpc/";

enum class Mode { ingress, egress, loopback };

struct Route {
    // The ALPN in ingress; in egress the file name of its socket without ".sock".
    std::string name;
    std::string alpn;
    std::string unix_path;
    // The exact URI SAN that the peer must have.
    std::string peer;
    // Egress only: HOST:PORT.
    std::string address;

    bool is_rpc() const { return alpn.rfind(RPC_ALPN_PREFIX, 0) == 0; }

    bool operator==(const Route & other) const {
        return name == other.name && alpn == other.alpn && unix_path == other.unix_path && peer == other.peer &&
               address == other.address;
    }
};

// By name.
using Routes = std::map<std::string, Route>;

// Reads `text`. On failure `error` says which line is wrong and why, and the result is empty.
Routes parse_routes(Mode mode, const std::string & text, std::string & error);

}  // namespace rpcmesh
