#include "parting.h"

#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>

#include "guard/commands.h"
#include "log.h"

namespace rpcmesh {

namespace {

using std::chrono::milliseconds;

// How long the lease of a stuck worker is kept for somebody to end it. Where nobody does, the next client must try.
constexpr milliseconds STUCK_WAIT(3000);

void write_graph(Json & line, const guard::GraphSummary & graph) {
    line.key("graph").open_object();
    line.field("device", uint64_t(graph.device)).field("nodes", uint64_t(graph.nodes)).field("tensors", uint64_t(graph.tensors));
    line.key("ops").open_object();
    for (uint32_t op = 0; op < guard::OP_COUNT; ++op) {
        if (graph.ops[op] > 0) {
            line.field(guard::name_of_op(op), uint64_t(graph.ops[op]));
        }
    }
    line.close_object().close_object();
}

void log_worker(const char * event, const Session & session, const guard::Guard & guard, Reason reason) {
    log_line("warning", event, [&](Json & line) {
        line.field("session", session.id).field("route", session.route).field("peer", session.peer).field("reason", name_of(reason));
        if (guard.worker_command() >= 0) {
            line.field("command", guard::command_of(static_cast<uint8_t>(guard.worker_command())).name);
        }
        const guard::GraphSummary graph = guard.last_graph();
        if (graph.nodes > 0) {
            write_graph(line, graph);
        }
    });
}

enum class Drained { closed, timed_out, stopping };

// Reads and forgets what comes from `fd` until its other side is closed. `spoke`: whether anything came.
Drained drain(int fd, const Registry & registry, const Session & session, TimePoint deadline, bool & spoke) {
    char bytes[64 * 1024];
    for (;;) {
        const int    wake   = session.wake.read.get();
        const Waited waited = wait_for(fd, POLLIN, wake, deadline);
        if (waited == Waited::timed_out) {
            return Drained::timed_out;
        }
        if (waited == Waited::woken) {
            // By whatever cut the session, most of all.
            while (read(wake, bytes, sizeof(bytes)) > 0) {
            }
            if (registry.is_stopping()) {
                return Drained::stopping;
            }
            continue;
        }
        const ssize_t got = receive_some(fd, bytes, sizeof(bytes));
        if (got == 0 || (got < 0 && errno != EAGAIN && errno != EWOULDBLOCK)) {
            return Drained::closed;
        }
        spoke = spoke || got > 0;
    }
}

}  // namespace

void part_with_worker(const Options & options, const Registry & registry, const Session & session, const guard::Guard & guard,
                      const std::string & path, const End & near, const Ended & ended) {
    if (ended.worker_left) {
        return log_worker("worker_lost", session, guard, ended.reason);
    }
    if (near.ended()) {
        return;
    }
    shutdown(near.fd(), SHUT_WR);
    bool spoke = false;
    if (!ended.overdue && ended.reason != Reason::compute_timeout && ended.reason != Reason::reply_invalid) {
        const Drained drained = drain(near.fd(), registry, session, Clock::now() + milliseconds(options.reset_after_ms), spoke);
        // In order it answers before it leaves.
        if (drained == Drained::closed && guard.worker_is_busy() && ended.delivered && !spoke) {
            log_worker("worker_lost", session, guard, ended.reason);
        }
        if (drained != Drained::timed_out) {
            return;
        }
    }
    log_worker("worker_stuck", session, guard, ended.reason);
    // One that closes its side just now will be ended all the same, and the next client must not be with it by then. So
    // it is held until it cannot be connected to.
    const TimePoint deadline = Clock::now() + STUCK_WAIT;
    Fd              again;
    for (int fd = near.fd(); fd >= 0 && drain(fd, registry, session, deadline, spoke) == Drained::closed; fd = again.get()) {
        again = connect_unix(path);
    }
}

}  // namespace rpcmesh
