// Why a connection was refused or ended: stable names, for the log and the status document. Never sent to the peer.
#pragma once

#include <array>
#include <cstddef>

namespace rpcmesh {

enum class Reason {
    none,
    handshake_timeout,
    handshake_broken,
    not_tls,
    tls_version,
    no_certificate,
    untrusted_ca,
    certificate_expired,
    certificate_not_yet_valid,
    certificate_revoked,
    certificate_invalid,
    wrong_identity,
    unknown_alpn,
    refused_by_peer,
    peer_unreachable,
    worker_unreachable,
    hello_timeout,
    hello_invalid,
    frame_invalid,
    reply_invalid,
    lease_busy,
    too_many_connections,
    peer_silent,
    peer_stalled,
    compute_timeout,
    peer_closed,
    local_closed,
    revoked,
    route_removed,
    stopping,
    count_,
};

constexpr std::array<const char *, static_cast<size_t>(Reason::count_)> reason_names = {
    "none",
    "handshake_timeout",
    "handshake_broken",
    "not_tls",
    "tls_version",
    "no_certificate",
    "untrusted_ca",
    "certificate_expired",
    "certificate_not_yet_valid",
    "certificate_revoked",
    "certificate_invalid",
    "wrong_identity",
    "unknown_alpn",
    "refused_by_peer",
    "peer_unreachable",
    "worker_unreachable",
    "hello_timeout",
    "hello_invalid",
    "frame_invalid",
    "reply_invalid",
    "lease_busy",
    "too_many_connections",
    "peer_silent",
    "peer_stalled",
    "compute_timeout",
    "peer_closed",
    "local_closed",
    "revoked",
    "route_removed",
    "stopping",
};

constexpr const char * name_of(Reason reason) {
    return reason_names[static_cast<size_t>(reason)];
}

}  // namespace rpcmesh
