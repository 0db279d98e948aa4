#include "registry.h"

#include <unistd.h>

#include <iterator>
#include <utility>

#include "log.h"

namespace rpcmesh {

namespace {

double seconds_since(TimePoint then) {
    return std::chrono::duration<double>(Clock::now() - then).count();
}

void write_counts(Json & json, const char * name, const std::map<std::string, uint64_t> & counts) {
    json.key(name).open_object();
    for (const auto & [reason, count] : counts) {
        json.field(reason, count);
    }
    json.close_object();
}

}  // namespace

void Session::cut(Reason reason) {
    Reason expected = Reason::none;
    cut_reason.compare_exchange_strong(expected, reason);
    const char byte = 0;
    // A full pipe means that it was cut before.
    if (write(wake.write.get(), &byte, 1) < 0) {
        return;
    }
}

std::shared_ptr<Session> Registry::open(const std::string & remote, size_t limit) {
    const std::lock_guard<std::mutex> lock(mutex_);
    auto session = std::make_shared<Session>();
    // Without its pipe a session could not be cut.
    if (!session->wake.read.valid() || !make_room(limit)) {
        note_refused(name_of(Reason::too_many_connections), "", "");
        return nullptr;
    }
    session->id     = next_id_++;
    session->remote = remote;
    ++accepted_;
    sessions_[session->id] = session;
    return session;
}

// The cut session leaves as soon as its thread sees it, so for a moment there may be more than `limit`.
bool Registry::make_room(size_t limit) {
    if (sessions_.size() < limit) {
        return true;
    }
    if (sessions_.size() >= 2 * limit) {
        return false;
    }
    for (const auto & [id, session] : sessions_) {
        if (!session->established && session->cut_reason == Reason::none) {
            session->cut(Reason::too_many_connections);
            return true;
        }
    }
    return false;
}

bool Registry::established(Session & session, const std::string & route, const std::string & peer, const std::string & serial,
                           const std::string & tls_version, const std::string & cipher) {
    const std::lock_guard<std::mutex> lock(mutex_);
    session.route       = route;
    session.peer        = peer;
    session.serial      = serial;
    session.tls_version = tls_version;
    session.cipher      = cipher;
    session.established = true;
    ++established_;
    failing_routes_.erase(route);
    const Reason reason = why_cut_ ? why_cut_(session) : Reason::none;
    if (reason != Reason::none) {
        session.cut(reason);
    }
    return session.cut_reason == Reason::none;
}

void Registry::close(const std::shared_ptr<Session> & session) {
    const std::lock_guard<std::mutex> lock(mutex_);
    bytes_in_ += session->bytes_in;
    bytes_out_ += session->bytes_out;
    sessions_.erase(session->id);
    changed_.notify_all();
}

void Registry::count_handshake_failure(Reason reason, const std::string & route) {
    const std::lock_guard<std::mutex> lock(mutex_);
    ++handshake_failures_[name_of(reason)];
    if (!route.empty()) {
        failing_routes_[route] = reason;
    }
}

void Registry::forget_failures_but(const Routes & routes) {
    const std::lock_guard<std::mutex> lock(mutex_);
    for (auto it = failing_routes_.begin(); it != failing_routes_.end();) {
        it = routes.count(it->first) == 0 ? failing_routes_.erase(it) : std::next(it);
    }
}

void Registry::count_refused(const char * why, const std::string & route, const std::string & detail) {
    const std::lock_guard<std::mutex> lock(mutex_);
    note_refused(why, route, detail);
}

void Registry::note_refused(const char * why, const std::string & route, const std::string & detail) {
    ++refused_[why];
    last_refused_ = { why, route, detail, utc_now() };
}

void Registry::cut_if(std::function<Reason(const Session &)> why) {
    const std::lock_guard<std::mutex> lock(mutex_);
    why_cut_ = std::move(why);
    for (const auto & [id, session] : sessions_) {
        if (!session->established) {
            continue;
        }
        const Reason reason = why_cut_(*session);
        if (reason != Reason::none) {
            session->cut(reason);
        }
    }
    changed_.notify_all();
}

void Registry::cut_all_and_wait() {
    std::unique_lock<std::mutex> lock(mutex_);
    stopping_ = true;
    for (const auto & [id, session] : sessions_) {
        session->cut(Reason::stopping);
    }
    changed_.notify_all();
    changed_.wait(lock, [this] { return sessions_.empty(); });
}

bool Registry::take_lease(const std::string & worker, const Session & session, int wait_ms) {
    std::unique_lock<std::mutex> lock(mutex_);
    const auto free_or_cut = [&] { return leases_.count(worker) == 0 || session.cut_reason != Reason::none; };
    if (!changed_.wait_for(lock, std::chrono::milliseconds(wait_ms), free_or_cut) || session.cut_reason != Reason::none) {
        return false;
    }
    leases_.insert(worker);
    return true;
}

void Registry::release_lease(const std::string & worker) {
    const std::lock_guard<std::mutex> lock(mutex_);
    leases_.erase(worker);
    changed_.notify_all();
}

void Registry::write_sessions(Json & json) {
    const std::lock_guard<std::mutex> lock(mutex_);
    json.key("sessions").open_array();
    for (const auto & [id, session] : sessions_) {
        if (!session->established) {
            continue;
        }
        json.open_object()
            .field("id", id)
            .field("route", session->route)
            .field("peer", session->peer)
            .field("remote", session->remote)
            .field("tls_version", session->tls_version)
            .field("cipher", session->cipher)
            .field("age_s", seconds_since(session->since))
            .field("bytes_in", session->bytes_in.load())
            .field("bytes_out", session->bytes_out.load())
            .close_object();
    }
    json.close_array();
    json.key("failing_routes").open_object();
    for (const auto & [route, reason] : failing_routes_) {
        json.field(route, name_of(reason));
    }
    json.close_object();
}

void Registry::write_totals(Json & json) {
    const std::lock_guard<std::mutex> lock(mutex_);
    uint64_t                          in  = bytes_in_;
    uint64_t                          out = bytes_out_;
    for (const auto & [id, session] : sessions_) {
        in += session->bytes_in;
        out += session->bytes_out;
    }
    json.key("totals").open_object();
    json.field("accepted", accepted_).field("sessions", established_).field("bytes_in", in).field("bytes_out", out);
    write_counts(json, "handshake_failures", handshake_failures_);
    write_counts(json, "refused", refused_);
    json.key("last_refusal");
    if (last_refused_.reason.empty()) {
        json.null();
    } else {
        json.open_object()
            .field("reason", last_refused_.reason)
            .field("route", last_refused_.route)
            .field("detail", last_refused_.detail)
            .field("at", last_refused_.at)
            .close_object();
    }
    json.close_object();
}

}  // namespace rpcmesh
