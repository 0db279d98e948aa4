// The process: listeners, signals, reload and status. Connections are served by session.h, each on its own thread.
#pragma once

#include <map>
#include <memory>
#include <string>

#include "options.h"
#include "registry.h"
#include "session.h"

namespace rpcmesh {

class Server {
public:
    explicit Server(Options options) : options_(std::move(options)) {}

    // Runs until SIGTERM or SIGINT. The exit status: 0, 1 for a bad identity or path, 3 for an address in use.
    int run();

private:
    bool                            start(std::string & error, int & status);
    std::shared_ptr<const Settings> load(std::string & error) const;
    bool                            open_egress_listeners(const Routes & routes, std::string & error);
    void                            reload();
    void                            loop(int signal_fd);
    void                            accept_network();
    void                            accept_local(const Route & route, int listener);
    void                            answer_status();
    std::string                     status_document();

    const Options                   options_;
    Registry                        registry_;
    std::shared_ptr<const Settings> settings_;
    Fd                              network_;
    Fd                              status_;
    std::map<std::string, Fd>       local_;  // egress, by route name
    TimePoint                       started_ = Clock::now();
    uint64_t                        reloads_ = 0;
    std::string                     last_reload_error_;
};

}  // namespace rpcmesh
