// Every live session and every count, shared by all threads; and the one lease that each worker has.
#pragma once

#include <atomic>
#include <condition_variable>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>

#include "fd.h"
#include "json.h"
#include "reason.h"
#include "routes.h"

namespace rpcmesh {

// What is known of one connection. Its own thread fills it in; `cut` may be called from any.
struct Session {
    uint64_t    id = 0;
    std::string remote;
    TimePoint   since = Clock::now();
    Pipe        wake  = make_pipe();

    // Under the registry's lock until published, constant afterwards.
    std::string route;
    std::string peer;
    std::string serial;
    std::string tls_version;
    std::string cipher;
    bool        established = false;

    std::atomic<uint64_t> bytes_in{ 0 };
    std::atomic<uint64_t> bytes_out{ 0 };
    std::atomic<Reason>   cut_reason{ Reason::none };

    // Ends the session soon, for `reason`.
    void cut(Reason reason);
};

class Registry {
public:
    // A new session, or nothing when `limit` are open. Whoever has not proved who it is makes room first: the oldest
    // handshake is cut for a newer one, so that strangers who connect and say nothing cannot keep the coordinator out.
    std::shared_ptr<Session> open(const std::string & remote, size_t limit);
    // The handshake is over: the session is now shown in status, and the rule of the last cut_if holds for it too.
    // False if it is cut already, and then not one of its bytes may be passed on.
    bool established(Session & session, const std::string & route, const std::string & peer, const std::string & serial,
                     const std::string & tls_version, const std::string & cipher);
    void close(const std::shared_ptr<Session> & session);

    // `route` is known in egress only: there the last failure of each route is kept until it works again.
    void count_handshake_failure(Reason reason, const std::string & route);
    // Drops the failures of routes that are no longer there.
    void forget_failures_but(const Routes & routes);
    // `why` is a word of Reason or of guard::Refusal; the last one is shown with its `detail` and `route`, where known.
    void count_refused(const char * why, const std::string & route = "", const std::string & detail = "");

    // Cuts the established sessions for which `why` gives a reason, now and as they come: a handshake that began before
    // a reload is judged by what holds after it.
    void cut_if(std::function<Reason(const Session &)> why);
    // Cuts all, and waits until every session's thread is done with it.
    void cut_all_and_wait();
    // Whether cut_all_and_wait was called.
    bool is_stopping() const { return stopping_; }

    // One holder a worker. Waits at most `wait_ms` for the present one to leave. A cut session gives up at once.
    bool take_lease(const std::string & worker, const Session & session, int wait_ms);
    void release_lease(const std::string & worker);

    void write_sessions(Json & json);
    void write_totals(Json & json);

private:
    struct Refused {
        std::string reason;
        std::string route;
        std::string detail;
        std::string at;
    };

    bool make_room(size_t limit);
    // Of whoever holds mutex_.
    void note_refused(const char * why, const std::string & route, const std::string & detail);

    std::mutex                                    mutex_;
    std::function<Reason(const Session &)>        why_cut_;
    std::condition_variable                       changed_;
    uint64_t                                      next_id_ = 1;
    std::map<uint64_t, std::shared_ptr<Session>>  sessions_;
    std::set<std::string>                         leases_;
    uint64_t                                      accepted_    = 0;
    uint64_t                                      established_ = 0;
    uint64_t                                      bytes_in_    = 0;
    uint64_t                                      bytes_out_   = 0;
    std::map<std::string, uint64_t>               handshake_failures_;
    std::map<std::string, Reason>                 failing_routes_;
    std::map<std::string, uint64_t>               refused_;
    Refused                                       last_refused_;
    std::atomic<bool>                             stopping_{ false };
};

}  // namespace rpcmesh
