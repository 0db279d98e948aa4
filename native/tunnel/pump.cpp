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

// One direction: bytes that were read and not yet written.
class Flow {
public:
    Flow() : buffer_(BUFFER_BYTES) {}

    // Bytes that may be written, and those behind them that the inspection holds back until more have come.
    size_t passed() const { return passed_; }
    bool   empty() const { return end_ == begin_; }
    bool   can_read() const { return passed_ == 0 && end_ - begin_ < buffer_.size(); }

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
        const size_t written = end.write(buffer_.data() + begin_, passed_);
        begin_ += written;
        passed_ -= written;
        return written;
    }

    uint8_t * held() { return buffer_.data() + begin_ + passed_; }
    size_t    held_size() const { return end_ - begin_ - passed_; }
    void      pass(size_t size) { passed_ += size; }

private:
    std::vector<uint8_t> buffer_;
    size_t               begin_  = 0;
    size_t               end_    = 0;
    size_t               passed_ = 0;
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
    Pump(End & far, End & near, Inspection * inspection, Session & session, int silence_ms) :
        far_(far),
        near_(near),
        inspection_(inspection),
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
            const Reason refusal = turn_inward(moved);
            if (refusal != Reason::none) {
                return refusal;
            }
            turn_outward(moved);
            if (far_.broken()) {
                return Reason::peer_closed;
            }
            if (near_.broken()) {
                return Reason::local_closed;
            }
            if (far_.read_ended() && inward_.passed() == 0) {
                near_.end_write();
            }
            if (near_.read_ended() && outward_.empty()) {
                far_.end_write();
            }
            if (far_.read_ended() && near_.read_ended() && inward_.passed() == 0 && outward_.empty() && !far_.has_unsent() &&
                !near_.has_unsent()) {
                return Reason::peer_closed;
            }
        }
        return Reason::none;
    }

    Reason turn_inward(bool & moved) {
        if (inward_.can_read() && (far_ready_ || far_.has_more()) && !far_.read_ended()) {
            far_ready_       = false;
            const size_t got = inward_.read_from(far_);
            session_.bytes_in += got;
            moved = moved || got > 0;
            size_t passed = inward_.held_size();
            if (inspection_ != nullptr && got > 0 &&
                inspection_->requests.inspect(inward_.held(), inward_.held_size(), passed) != RequestFrames::Verdict::ok) {
                return Reason::frame_invalid;
            }
            inward_.pass(passed);
        }
        if (inward_.passed() > 0) {
            moved = inward_.write_to(near_) > 0 || moved;
        }
        return Reason::none;
    }

    void turn_outward(bool & moved) {
        if (outward_.can_read() && !far_.has_unsent() && (near_ready_ || near_.has_more()) && !near_.read_ended()) {
            near_ready_      = false;
            const size_t got = outward_.read_from(near_);
            if (inspection_ != nullptr) {
                inspection_->replies.zero(outward_.held(), outward_.held_size());
            }
            outward_.pass(got);
            moved = moved || got > 0;
        }
        if (outward_.passed() > 0) {
            const size_t written = outward_.write_to(far_);
            session_.bytes_out += written;
            moved = written > 0 || moved;
        }
    }

    Reason wait() {
        const bool    far_writes  = far_.has_unsent() || outward_.passed() > 0;
        const bool    near_writes = near_.has_unsent() || inward_.passed() > 0;
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

    End &        far_;
    End &        near_;
    Inspection * inspection_;
    Session &    session_;
    Silence      silence_;
    TimePoint    next_look_ = Clock::now();
    Flow         inward_;
    Flow         outward_;
    // Ciphertext may lie in the TLS stream already, so both ends are tried once before the first wait.
    bool         far_ready_    = true;
    bool         near_ready_   = true;
    bool         far_hung_up_  = false;
    bool         near_hung_up_ = false;
};

}  // namespace

Reason pump(End & far, End & near, const Early & early, Inspection * inspection, Session & session, int silence_ms) {
    return Pump(far, near, inspection, session, silence_ms).run(early);
}

}  // namespace rpcmesh
