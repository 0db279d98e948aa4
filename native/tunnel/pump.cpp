#include "pump.h"

#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

namespace rpcmesh {

namespace {

constexpr size_t BUFFER_BYTES = 256 * 1024;
// How often a connection with unacknowledged bytes is looked at.
constexpr int    SILENCE_CHECK_MS = 500;

bool would_block() {
    return errno == EAGAIN || errno == EWOULDBLOCK;
}

// One direction: bytes that were read and not yet written, and bytes of the guard's own that follow them.
class Flow {
public:
    Flow() : buffer_(BUFFER_BYTES) {}

    // Whether there is something to write: bytes that were passed, or the guard's.
    bool   pending() const { return passed_ > 0 || has_own(); }
    bool   has_own() const { return own_sent_ < own_.size(); }
    bool   can_read() const { return !pending() && end_ - begin_ < buffer_.size(); }
    // Whether the guard has nothing more to do here before more bytes come.
    bool   settled() const { return settled_; }
    void   set_settled(bool settled) { settled_ = settled; }

    void preload(const Early & early) {
        std::copy(early.bytes.begin(), early.bytes.end(), buffer_.begin());
        end_    = early.bytes.size();
        passed_ = early.passed;
    }

    size_t read_from(End & end) {
        if (begin_ > 0) {
            std::memmove(buffer_.data(), buffer_.data() + begin_, end_ - begin_);
            end_ -= begin_;
            begin_ = 0;
        }
        const size_t got = end.read(buffer_.data() + end_, buffer_.size() - end_);
        end_ += got;
        return got;
    }

    size_t write_to(End & end) {
        if (passed_ > 0) {
            const size_t written = end.write(buffer_.data() + begin_, passed_);
            begin_ += written;
            passed_ -= written;
            return written;
        }
        const size_t written = end.write(own_.data() + own_sent_, own_.size() - own_sent_);
        own_sent_ += written;
        if (!has_own()) {
            own_.clear();
            own_sent_ = 0;
        }
        return written;
    }

    uint8_t * held() { return buffer_.data() + begin_ + passed_; }
    size_t    held_size() const { return end_ - begin_ - passed_; }
    void      pass(size_t size) { passed_ += size; }

    // Forgets the first of the held bytes.
    void drop(size_t size) {
        std::memmove(held(), held() + size, held_size() - size);
        end_ -= size;
    }

    // The guard's bytes go out behind what was passed so far, and before what is passed later.
    void append(const std::vector<uint8_t> & bytes) { own_.insert(own_.end(), bytes.begin(), bytes.end()); }

private:
    std::vector<uint8_t> buffer_;
    size_t               begin_  = 0;
    size_t               end_    = 0;
    size_t               passed_ = 0;
    std::vector<uint8_t> own_;
    size_t               own_sent_ = 0;
    bool                 settled_  = true;
};

}  // namespace

size_t End::read(uint8_t * data, size_t size) {
    return tls_ ? read_tls(data, size) : read_plain(data, size);
}

size_t End::read_plain(uint8_t * data, size_t size) {
    const ssize_t got = receive_some(fd(), data, size);
    has_more_         = got == static_cast<ssize_t>(size);
    if (got > 0) {
        return static_cast<size_t>(got);
    }
    if (got == 0) {
        read_ended_ = true;
    } else if (!would_block()) {
        broken_ = true;
    }
    return 0;
}

size_t End::read_tls(uint8_t * data, size_t size) {
    // Static per thread rather than per end: ciphertext does not stay here.
    thread_local std::vector<uint8_t> ciphertext(BUFFER_BYTES);
    size_t                            total = 0;
    bool                              asked = false;
    while (total < size) {
        const long got = tls_->read(data + total, size - total);
        if (got > 0) {
            total += static_cast<size_t>(got);
            continue;
        }
        if (got < 0) {
            (tls_->failed() ? broken_ : read_ended_) = true;
            break;
        }
        // One system call a turn: a short read says that the socket is empty, and asking again would only cost.
        if (asked) {
            break;
        }
        asked               = true;
        const ssize_t fresh = receive_some(fd(), ciphertext.data(), ciphertext.size());
        if (fresh > 0) {
            tls_->feed(ciphertext.data(), static_cast<size_t>(fresh));
            has_more_ = fresh == static_cast<ssize_t>(ciphertext.size());
            continue;
        }
        has_more_ = false;
        // A TCP end without TLS's close_notify is a cut connection, not an end in order.
        broken_ = fresh == 0 || !would_block();
        break;
    }
    if (total == size) {
        has_more_ = true;
    }
    return total;
}

size_t End::write(const uint8_t * data, size_t size) {
    if (!tls_) {
        const ssize_t sent = send_some(fd(), data, size);
        if (sent >= 0) {
            return static_cast<size_t>(sent);
        }
        broken_ = broken_ || !would_block();
        return 0;
    }
    if (has_unsent() && !flush()) {
        return 0;
    }
    if (!tls_->write(data, size)) {
        broken_ = true;
        return 0;
    }
    flush();
    return size;
}

bool End::flush() {
    const uint8_t * data = nullptr;
    while (const size_t size = tls_ ? tls_->pending(&data) : 0) {
        const ssize_t sent = send_some(fd(), data, size);
        if (sent < 0) {
            broken_ = broken_ || !would_block();
            return false;
        }
        tls_->sent(static_cast<size_t>(sent));
    }
    return true;
}

bool End::has_unsent() const {
    const uint8_t * data = nullptr;
    return tls_ && tls_->pending(&data) > 0;
}

void End::end_write() {
    if (write_ended_) {
        return;
    }
    write_ended_ = true;
    if (tls_) {
        tls_->close_write();
        flush();
    } else {
        shutdown(fd(), SHUT_WR);
    }
}

namespace {

class Pump {
public:
    Pump(End & far, End & near, guard::Guard * guard, Session & session, int silence_ms) :
        far_(far),
        near_(near),
        guard_(guard),
        session_(session),
        silence_(silence_ms) {}

    Reason run(const Early & early) {
        inward_.preload(early);
        for (;;) {
            const Reason verdict = turn();
            if (verdict != Reason::none) {
                return verdict;
            }
            const Reason waited = wait();
            if (waited != Reason::none) {
                return waited;
            }
        }
    }

private:
    // Moves what can be moved without waiting.
    Reason turn() {
        bool moved = true;
        while (moved) {
            moved               = false;
            if (!turn_inward(moved) || !turn_outward(moved)) {
                return Reason::frame_invalid;
            }
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
                    flow.append(step.bytes);
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

    Reason wait() {
        const bool    far_writes  = far_.has_unsent() || outward_.pending();
        const bool    near_writes = near_.has_unsent() || inward_.pending();
        pollfd        watched[3]  = {
            watch(far_, far_hung_up_, inward_.can_read() && !far_.read_ended(), far_writes),
            watch(near_, near_hung_up_, outward_.can_read() && !far_.has_unsent() && !near_.read_ended(), near_writes),
            { session_.wake.read.get(), POLLIN, 0 },
        };
        const int ready = poll(watched, 3, SILENCE_CHECK_MS);
        // By the clock: a local end that talks all the time would keep poll from ever timing out.
        const TimePoint now = Clock::now();
        if (now >= next_look_) {
            next_look_ = now + std::chrono::milliseconds(SILENCE_CHECK_MS);
            if (silence_.look(far_.fd(), now)) {
                return Reason::peer_silent;
            }
        }
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
    TimePoint      next_look_ = Clock::now();
    Flow           inward_;
    Flow           outward_;
    // Ciphertext may lie in the TLS stream already, so both ends are tried once before the first wait.
    bool         far_ready_    = true;
    bool         near_ready_   = true;
    bool         far_hung_up_  = false;
    bool         near_hung_up_ = false;
};

}  // namespace

Reason pump(End & far, End & near, const Early & early, guard::Guard * guard, Session & session, int silence_ms) {
    return Pump(far, near, guard, session, silence_ms).run(early);
}

}  // namespace rpcmesh
