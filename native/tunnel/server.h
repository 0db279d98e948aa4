// The process: listeners, signals, reload and status. Connections are served by session.h, each on its own thread.
#pragma once

#include <atomic>
#include <functional>
#include <list>
#include <map>
#include <memory>
#include <string>
#include <thread>

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
    // A session's thread. It is joined: one that outlived main() would race with the end of OpenSSL's own state.
    struct Running {
        std::thread                        thread;
        std::shared_ptr<std::atomic<bool>> done;
    };

    bool                            start(std::string & error, int & status);
    std::shared_ptr<const Settings> load(std::string & error) const;
    bool                            open_egress_listeners(const Routes & routes, std::string & error);
    void                            close_listeners();
    void                            reload();
    void                            loop(int signal_fd);
    void                            join(bool all);
    void                            serve(const std::shared_ptr<Session> & session, Incoming incoming, std::function<void(Incoming)> body);
    Fd                              accept_or_shed(int listener, std::string & from);
    void                            accept_network();
    void                            accept_local(const Route & route, int listener);
    void                            answer_status();
    std::string                     status_document();

    const Options                   options_;
    Registry                        registry_;
    std::shared_ptr<const Settings> settings_;
    Fd                              network_;
    Fd                              status_;
    Fd                              spare_;  // given up for a moment when descriptors run out
    std::map<std::string, Fd>       local_;  // egress, by route name
    std::list<Running>              running_;
    TimePoint                       started_ = Clock::now();
    uint64_t                        reloads_ = 0;
    std::string                     last_reload_error_;
};

}  // namespace rpcmesh
