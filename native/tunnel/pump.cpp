#include "pump.h"

#include <poll.h>

namespace rpcmesh {

namespace {

using std::chrono::milliseconds;

// How often it is looked at who keeps whom waiting; more often once the client has left.
constexpr milliseconds LOOK(500);
constexpr milliseconds LAST_LOOKS(50);

bool has_input(int fd) {
    pollfd watched = { fd, POLLIN, 0 };
    return poll(&watched, 1, 0) > 0;
}

class Pump {
public:
    Pump(End & far, End & near, guard::Guard * guard, Session & session, const Patience & patience) :
        far_(far),
        near_(near),
        guard_(guard),
        session_(session),
        silence_(patience.silence_ms),
        frame_clock_(milliseconds(patience.stall_ms)),
        answer_clock_(milliseconds(patience.stall_ms)),
        worker_clock_(milliseconds(patience.compute_ms)),
        farewell_clock_(milliseconds(patience.reset_after_ms)) {}

    Ended run(const Early & early) {
        inward_.preload(early);
        Ended ended;
        while (ended.reason == Reason::none) {
            ended.reason = turn();
            if (ended.reason == Reason::none) {
                ended.reason = look();
            }
            if (ended.reason == Reason::none) {
                ended.reason = wait();
            }
        }
        ended.worker_left = worker_left_ || ended.reason == Reason::local_closed;
        ended.delivered   = !inward_.pending();
        ended.overdue     = overdue_;
        return ended;
    }

private:
    // Moves what can be moved without waiting.
    Reason turn() {
        bool moved = true;
        while (moved) {
            moved               = false;
            if (!turn_inward(moved) || !turn_outward(moved)) {
                return guard_->finding().refusal == guard::Refusal::reply_invalid ? Reason::reply_invalid : Reason::frame_invalid;
            }
            // After its client a worker leaves in order, unless it still owes an answer to what it got.
            worker_left_ = worker_left_ || (near_.ended() && (!far_.ended() || (worker_is_busy() && !inward_.pending())));
            if (far_.broken()) {
                return Reason::peer_closed;
            }
            if (near_.broken()) {
                return Reason::local_closed;
            }
            const bool inward_done  = far_.read_ended() && !inward_.pending() && inward_.settled();
            const bool outward_done = near_.read_ended() && !outward_.pending();
            if (inward_done) {
                near_.end_write();
            }
            if (outward_done) {
                far_.end_write();
            }
            if (far_.read_ended() && outward_done && !inward_.pending() && !far_.has_unsent() && !near_.has_unsent()) {
                return Reason::peer_closed;
            }
        }
        return Reason::none;
    }

    // False when the guard refuses.
    bool turn_inward(bool & moved) {
        if (inward_.can_read() && (far_ready_ || far_.has_more()) && !far_.read_ended()) {
            far_ready_       = false;
            const size_t got = inward_.read_from(far_);
            session_.bytes_in += got;
            moved = moved || got > 0;
        }
        // A client that does not read its answers gets no more of them.
        if (!outward_.has_own() && !inspect(inward_, outward_, &guard::Guard::from_client, moved)) {
            return false;
        }
        if (inward_.pending()) {
            moved = inward_.write_to(near_) > 0 || moved;
        }
        return true;
    }

    bool turn_outward(bool & moved) {
        if (outward_.can_read() && !far_.has_unsent() && (near_ready_ || near_.has_more()) && !near_.read_ended()) {
            near_ready_ = false;
            moved       = outward_.read_from(near_) > 0 || moved;
        }
        if (!inspect(outward_, inward_, &guard::Guard::from_worker, moved)) {
            return false;
        }
        if (outward_.pending()) {
            const size_t written = outward_.write_to(far_);
            session_.bytes_out += written;
            moved = written > 0 || moved;
        }
        return true;
    }

    // Lets the guard decide about the held bytes of `flow`. False when it refuses.
    bool inspect(Flow & flow, Flow & back, guard::Step (guard::Guard::*next)(uint8_t *, size_t), bool & moved) {
        using Kind = guard::Step::Kind;
        if (guard_ == nullptr) {
            flow.pass(flow.held_size());
            return true;
        }
        // An answer ends the turn for the client's side: see turn_inward.
        bool answered = false;
        while (!flow.has_own() && !answered) {
            const guard::Step step = (guard_->*next)(flow.held(), flow.held_size());
            flow.set_settled(step.kind == Kind::need_more);
            switch (step.kind) {
                case Kind::need_more:
                case Kind::wait:
                    return true;
                case Kind::refuse:
                    return false;
                case Kind::pass:
                    flow.pass(step.size);
                    break;
                case Kind::drop:
                    flow.drop(step.size);
                    break;
                case Kind::emit:
                    flow.insert(step.bytes);
                    break;
                case Kind::answer:
                    back.append(step.bytes);
                    answered = true;
                    break;
            }
            moved = true;
        }
        return true;
    }

    // Who keeps whom waiting, by the clock: a side that talks all the time would keep poll from ever timing out.
    Reason look() {
        const TimePoint now = Clock::now();
        if (now < last_look_ + look_interval()) {
            return Reason::none;
        }
        last_look_ = now;
        if (silence_.look(far_.fd(), now)) {
            return Reason::peer_silent;
        }
        if (guard_ == nullptr) {
            return Reason::none;
        }
        if (frame_clock_.look(client_owes_a_frame(), far_.received(), now) ||
            answer_clock_.look(outward_.pending() || far_.has_unsent(), far_.taken(), now)) {
            return Reason::peer_stalled;
        }
        if (worker_clock_.look(worker_owes(), near_.received() + (worker_is_busy() ? 0 : near_.taken()), now)) {
            return Reason::compute_timeout;
        }
        overdue_ = farewell_clock_.look(far_.read_ended(), near_.received() + far_.taken(), now);
        return overdue_ ? Reason::peer_closed : Reason::none;
    }

    milliseconds look_interval() const { return guard_ != nullptr && far_.read_ended() ? LAST_LOOKS : LOOK; }

    bool worker_is_busy() const { return guard_ != nullptr && guard_->worker_is_busy(); }

    // It has an answer to give, or bytes to take. One that has spoken waits for us to listen.
    bool worker_owes() const { return (worker_is_busy() || inward_.pending()) && !has_input(near_.fd()); }

    // The rest of one that it began. Idle between two frames it owes nothing.
    bool client_owes_a_frame() const {
        const bool begun = guard_->is_in_frame() || inward_.held_size() > 0;
        return begun && inward_.settled() && !inward_.pending() && !far_.read_ended() && !worker_owes();
    }

    Reason wait() {
        const bool    far_writes  = far_.has_unsent() || outward_.pending();
        const bool    near_writes = near_.has_unsent() || inward_.pending();
        pollfd        watched[3]  = {
            watch(far_, far_hung_up_, inward_.can_read() && !far_.read_ended(), far_writes),
            watch(near_, near_hung_up_, outward_.can_read() && !far_.has_unsent() && !near_.read_ended(), near_writes),
            { session_.wake.read.get(), POLLIN, 0 },
        };
        const int ready = poll(watched, 3, static_cast<int>(look_interval().count()));
        if (ready <= 0) {
            return Reason::none;
        }
        if (watched[2].revents != 0) {
            return session_.cut_reason;
        }
        far_hung_up_  = far_hung_up_ || (watched[0].revents & POLLHUP) != 0;
        near_hung_up_ = near_hung_up_ || (watched[1].revents & POLLHUP) != 0;
        far_ready_    = far_ready_ || (watched[0].revents & ~POLLOUT) != 0;
        near_ready_   = near_ready_ || (watched[1].revents & ~POLLOUT) != 0;
        if ((watched[0].revents & POLLOUT) != 0) {
            far_.flush();
        }
        if ((watched[1].revents & POLLOUT) != 0) {
            near_.flush();
        }
        if ((watched[0].revents & (POLLERR | POLLNVAL)) != 0) {
            return Reason::peer_closed;
        }
        if ((watched[1].revents & (POLLERR | POLLNVAL)) != 0) {
            return Reason::local_closed;
        }
        if ((watched[1].revents & POLLHUP) != 0 && near_.read_ended()) {
            return Reason::local_closed;
        }
        if ((watched[0].revents & POLLHUP) != 0 && far_.read_ended()) {
            return Reason::peer_closed;
        }
        return Reason::none;
    }

    // An end that hung up makes poll return at once, also when its last bytes cannot be read yet: it is left out then.
    static pollfd watch(const End & end, bool hung_up, bool reads, bool writes) {
        const auto events = static_cast<short>((reads ? POLLIN : 0) | (writes ? POLLOUT : 0));
        return { hung_up && events == 0 && !end.read_ended() ? -1 : end.fd(), events, 0 };
    }

    End &          far_;
    End &          near_;
    guard::Guard * guard_;
    Session &      session_;
    Silence        silence_;
    StallClock     frame_clock_;
    StallClock     answer_clock_;
    StallClock     worker_clock_;
    StallClock     farewell_clock_;
    TimePoint      last_look_;
    Flow           inward_;
    Flow           outward_;
    // Ciphertext may lie in the TLS stream already, so both ends are tried once before the first wait.
    bool         far_ready_    = true;
    bool         near_ready_   = true;
    bool         far_hung_up_  = false;
    bool         near_hung_up_ = false;
    bool         worker_left_  = false;
    bool         overdue_      = false;
};

}  // namespace

Ended pump(End & far, End & near, const Early & early, guard::Guard * guard, Session & session, const Patience & patience) {
    return Pump(far, near, guard, session, patience).run(early);
}

}  // namespace rpcmesh
