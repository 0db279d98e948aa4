// One connection from its accept to its end, on a thread of its own: handshake, route, lease, pump.
#pragma once

#include <memory>
#include <string>

#include "options.h"
#include "registry.h"
#include "routes.h"
#include "tls.h"

namespace rpcmesh {

// What is in force. Never changed: a reload makes a new one, and live sessions keep theirs.
struct Settings {
    std::shared_ptr<const Identity> identity;
    Routes                          routes;
};

struct Incoming {
    Fd                              fd;
    std::shared_ptr<Session>        session;
    std::shared_ptr<const Settings> settings;
};

// Each runs a session to its end, counts and logs what became of it, and closes it in the registry.
void serve_ingress(const Options & options, Registry & registry, Incoming incoming);
void serve_egress(const Options & options, Registry & registry, Incoming incoming, const Route & route);
void serve_loopback(const Options & options, Registry & registry, Incoming incoming);

}  // namespace rpcmesh
