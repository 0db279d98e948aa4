// rpcmesh-tunnel: mutual TLS between a Unix socket on one machine and a Unix socket on another.

#include <openssl/crypto.h>

#include <cstdio>
#include <cstring>

#include "options.h"
#include "server.h"
#include "version.h"

int main(int argc, char ** argv) {
    constexpr int EXIT_USAGE = 2;
    if (argc == 2 && std::strcmp(argv[1], "--version") == 0) {
        std::printf("rpcmesh-tunnel %s, OpenSSL %s, RPC %s\n", rpcmesh::TUNNEL_VERSION, OpenSSL_version(OPENSSL_VERSION_STRING),
                    rpcmesh::RPC_PROTOCOL);
        return 0;
    }
    if (argc == 2 && std::strcmp(argv[1], "--help") == 0) {
        std::fputs(rpcmesh::usage, stdout);
        return 0;
    }
    rpcmesh::Options options;
    std::string      error;
    if (!rpcmesh::parse_options(argc, argv, options, error)) {
        std::fprintf(stderr, "rpcmesh-tunnel: %s\n%s", error.c_str(), rpcmesh::usage);
        return EXIT_USAGE;
    }
    return rpcmesh::Server(options).run();
}
