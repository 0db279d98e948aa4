#include "session.h"

#include <poll.h>

#include <cerrno>
#include <utility>

#include "hello.h"
#include "log.h"
#include "parting.h"
#include "pump.h"

namespace rpcmesh {

namespace {

constexpr int CONNECT_TIMEOUT_S = 3;
constexpr int WORKER_RETRY_MS   = 10;

// Closes the session in the registry when its thread is done, however it ends.
class Ending {
public:
    Ending(Registry & registry, std::shared_ptr<Session> session) : registry_(registry), session_(std::move(session)) {}
    Ending(const Ending &)             = delete;
    Ending & operator=(const Ending &) = delete;
    ~Ending() { registry_.close(session_); }

private:
    Registry &               registry_;
    std::shared_ptr<Session> session_;
};

class Lease {
public:
    Lease(Registry & registry, const std::string & worker, const Session & session, int wait_ms) :
        registry_(registry),
        worker_(worker),
        held_(registry.take_lease(worker, session, wait_ms)) {}
    Lease(const Lease &)             = delete;
    Lease & operator=(const Lease &) = delete;
    ~Lease() {
        if (held_) {
            registry_.release_lease(worker_);
        }
    }
    bool held() const { return held_; }

private:
    Registry &        registry_;
    const std::string worker_;
    const bool        held_;
};

void log_session(const char * level, const char * event, const Session & session, Reason reason) {
    log_line(level, event, [&](Json & line) {
        line.field("session", session.id).field("remote", session.remote);
        if (session.established) {
            line.field("route", session.route).field("peer", session.peer);
        }
        if (reason != Reason::none) {
            line.field("reason", name_of(reason));
        }
    });
}

void log_opened(const Session & session) {
    log_line("info", "session_opened", [&](Json & line) {
        line.field("session", session.id)
            .field("route", session.route)
            .field("peer", session.peer)
            .field("remote", session.remote)
            .field("tls", session.tls_version)
            .field("cipher", session.cipher);
    });
}

void log_closed(const Session & session, Reason reason) {
    log_line("info", "session_closed", [&](Json & line) {
        line.field("session", session.id)
            .field("route", session.route)
            .field("reason", name_of(reason))
            .field("bytes_in", session.bytes_in.load())
            .field("bytes_out", session.bytes_out.load());
    });
}

// A handshake that failed, or a peer that is not who the route wants.
void fail_handshake(Registry & registry, const Session & session, Reason reason, const std::string & route = "") {
    if (reason == Reason::stopping) {
        reason = session.cut_reason;
    }
    // Cut by ourselves says nothing about the other side.
    registry.count_handshake_failure(reason, session.cut_reason == Reason::none ? route : "");
    log_session("warning", "handshake_failed", session, reason);
}

void refuse(Registry & registry, const Session & session, Reason reason) {
    if (reason == Reason::stopping || session.cut_reason != Reason::none) {
        reason = session.cut_reason;
    }
    registry.count_refused(name_of(reason), session.established ? session.route : "");
    log_session("warning", "session_refused", session, reason);
}

bool send_ciphertext(int fd, TlsStream & tls, int wake_fd, TimePoint deadline) {
    const uint8_t * data = nullptr;
    while (const size_t size = tls.pending(&data)) {
        const ssize_t sent = send_some(fd, data, size);
        if (sent > 0) {
            tls.sent(static_cast<size_t>(sent));
        } else if ((errno != EAGAIN && errno != EWOULDBLOCK) || wait_for(fd, POLLOUT, wake_fd, deadline) != Waited::ready) {
            return false;
        }
    }
    return true;
}

// Waits for bytes and feeds them to `tls`. `none` if there were some.
Reason receive_ciphertext(int fd, TlsStream & tls, int wake_fd, TimePoint deadline, Reason timeout) {
    switch (wait_for(fd, POLLIN, wake_fd, deadline)) {
        case Waited::timed_out:
            return timeout;
        case Waited::woken:
            return Reason::stopping;
        case Waited::ready:
            break;
    }
    uint8_t       buffer[16 * 1024];
    const ssize_t got = receive_some(fd, buffer, sizeof(buffer));
    if (got <= 0) {
        return Reason::handshake_broken;
    }
    tls.feed(buffer, static_cast<size_t>(got));
    return Reason::none;
}

Reason shake_hands(int fd, TlsStream & tls, int wake_fd, TimePoint deadline) {
    for (;;) {
        const TlsStream::Step step = tls.handshake();
        // Also after a failure: the alert tells a well-meaning peer what kind of mistake it made.
        const bool sent = send_ciphertext(fd, tls, wake_fd, deadline);
        if (step == TlsStream::Step::failed) {
            return tls.reason();
        }
        if (!sent) {
            return Reason::handshake_broken;
        }
        if (step == TlsStream::Step::done) {
            return Reason::none;
        }
        const Reason received = receive_ciphertext(fd, tls, wake_fd, deadline, Reason::handshake_timeout);
        if (received != Reason::none) {
            return received;
        }
    }
}

// Reads until a whole HELLO is there. Its bytes, with whatever came behind them, end up in `early`.
Reason read_hello(int fd, TlsStream & tls, int wake_fd, TimePoint deadline, guard::Guard & guard, Early & early) {
    for (;;) {
        uint8_t    buffer[4 * 1024];
        const long got = tls.read(buffer, sizeof(buffer));
        if (got < 0) {
            return Reason::peer_closed;
        }
        if (got == 0) {
            const Reason received = receive_ciphertext(fd, tls, wake_fd, deadline, Reason::hello_timeout);
            if (received != Reason::none) {
                return received == Reason::handshake_broken ? Reason::peer_closed : received;
            }
            continue;
        }
        early.bytes.insert(early.bytes.end(), buffer, buffer + got);
        const Reason wrong = look_for_hello(guard, early);
        if (wrong != Reason::none || guard.greeted()) {
            return wrong;
        }
    }
}

// What the guard found, for the log. The peer hears nothing of it.
void refuse_frame(Registry & registry, const Session & session, const guard::Finding & finding) {
    registry.count_refused(guard::name_of(finding.refusal), session.route, finding.detail);
    log_line("warning", "frame_refused", [&](Json & line) {
        line.field("session", session.id)
            .field("remote", session.remote)
            .field("route", session.route)
            .field("peer", session.peer)
            .field("reason", guard::name_of(finding.refusal))
            .field("detail", finding.detail);
        if (finding.command >= 0) {
            line.field("command", static_cast<uint64_t>(finding.command));
        }
        if (finding.op >= 0) {
            line.field("op", guard::name_of_op(static_cast<uint32_t>(finding.op))).field("node", static_cast<uint64_t>(finding.node));
        }
    });
}

Ended run_pump(const Options & options, End & far, End & near, const Early & early, guard::Guard * guard, Session & session,
               Registry & registry) {
    const Patience patience = { options.silence_timeout_s * 1000 - 500, options.stall_timeout_s * 1000, options.compute_timeout_s * 1000,
                                options.reset_after_ms };
    const Ended    ended    = pump(far, near, early, guard, session, patience);
    if (ended.reason == Reason::frame_invalid || ended.reason == Reason::reply_invalid) {
        refuse_frame(registry, session, guard->finding());
    } else if (ended.reason == Reason::peer_stalled || ended.reason == Reason::compute_timeout) {
        registry.count_refused(name_of(ended.reason), session.route);
    }
    return ended;
}

// A worker that is just being started again is waited for. Nothing tells when a socket is there, so it is tried.
Fd connect_worker(const std::string & path, int wake_fd, TimePoint deadline) {
    for (;;) {
        Fd     fd    = connect_unix(path);
        pollfd waked = { wake_fd, POLLIN, 0 };
        if (fd.valid() || Clock::now() >= deadline || poll(&waked, 1, WORKER_RETRY_MS) > 0) {
            return fd;
        }
    }
}

}  // namespace

void serve_ingress(const Options & options, Registry & registry, Incoming incoming) {
    Session &       session = *incoming.session;
    const Ending    ending(registry, incoming.session);
    const int       wake     = session.wake.read.get();
    const TimePoint deadline = Clock::now() + std::chrono::seconds(options.handshake_timeout_s);
    tune_tcp(incoming.fd.get(), options.silence_timeout_s);
    auto         tls    = std::make_unique<TlsStream>(*incoming.settings->identity, true, "");
    const Reason failed = shake_hands(incoming.fd.get(), *tls, wake, deadline);
    if (failed != Reason::none) {
        return fail_handshake(registry, session, failed);
    }
    const auto found = incoming.settings->routes.find(tls->alpn());
    if (found == incoming.settings->routes.end()) {
        return fail_handshake(registry, session, Reason::unknown_alpn);
    }
    const Route & route = found->second;
    if (tls->peer_uri() != route.peer) {
        return fail_handshake(registry, session, Reason::wrong_identity);
    }
    if (!registry.established(session, route.name, route.peer, tls->peer_serial(), tls->version(), tls->cipher())) {
        return refuse(registry, session, session.cut_reason);
    }

    Early                         early;
    std::unique_ptr<guard::Guard> guard;
    std::unique_ptr<Lease>        lease;
    TimePoint                     worker_by = Clock::now();
    if (route.is_rpc()) {
        guard                = std::make_unique<guard::Guard>(options.limits);
        const Reason refusal = read_hello(incoming.fd.get(), *tls, wake, deadline, *guard, early);
        if (refusal != Reason::none) {
            return refuse(registry, session, refusal);
        }
        worker_by = Clock::now() + std::chrono::milliseconds(options.lease_wait_ms);
        lease     = std::make_unique<Lease>(registry, route.name, session, options.lease_wait_ms);
        if (!lease->held()) {
            return refuse(registry, session, Reason::lease_busy);
        }
        session.bytes_in += early.bytes.size();
    }
    End near(connect_worker(route.unix_path, wake, worker_by));
    if (near.fd() < 0) {
        return refuse(registry, session, Reason::worker_unreachable);
    }
    log_opened(session);
    Ended ended;
    {
        End far(std::move(incoming.fd), std::move(tls));
        ended = run_pump(options, far, near, early, guard.get(), session, registry);
    }
    if (guard) {
        part_with_worker(options, registry, session, *guard, route.unix_path, near, ended);
    }
    log_closed(session, ended.reason);
}

void serve_egress(const Options & options, Registry & registry, Incoming incoming, const Route & route) {
    Session &       session = *incoming.session;
    const Ending    ending(registry, incoming.session);
    const int       wake = session.wake.read.get();
    const TimePoint now  = Clock::now();
    Fd              fd   = connect_tcp(route.address, now + std::chrono::seconds(CONNECT_TIMEOUT_S), wake);
    session.remote       = route.address;
    if (!fd.valid()) {
        return fail_handshake(registry, session, Reason::peer_unreachable, route.name);
    }
    tune_tcp(fd.get(), options.silence_timeout_s);
    auto         tls    = std::make_unique<TlsStream>(*incoming.settings->identity, false, route.alpn);
    const Reason failed = shake_hands(fd.get(), *tls, wake, now + std::chrono::seconds(options.handshake_timeout_s));
    if (failed != Reason::none) {
        return fail_handshake(registry, session, failed, route.name);
    }
    if (tls->peer_uri() != route.peer) {
        return fail_handshake(registry, session, Reason::wrong_identity, route.name);
    }
    if (tls->alpn() != route.alpn) {
        return fail_handshake(registry, session, Reason::unknown_alpn, route.name);
    }
    if (!registry.established(session, route.name, route.peer, tls->peer_serial(), tls->version(), tls->cipher())) {
        return refuse(registry, session, session.cut_reason);
    }
    log_opened(session);
    End far(std::move(fd), std::move(tls));
    End near(std::move(incoming.fd));
    log_closed(session, run_pump(options, far, near, {}, nullptr, session, registry).reason);
}

void serve_loopback(const Options & options, Registry & registry, Incoming incoming) {
    Session &    session = *incoming.session;
    const Ending ending(registry, incoming.session);
    tune_tcp(incoming.fd.get(), options.silence_timeout_s);
    End near(connect_unix(options.to));
    if (near.fd() < 0) {
        return refuse(registry, session, Reason::worker_unreachable);
    }
    registry.established(session, "loopback", "", "", "", "");
    End far(std::move(incoming.fd));
    log_closed(session, run_pump(options, far, near, {}, nullptr, session, registry).reason);
}

}  // namespace rpcmesh
