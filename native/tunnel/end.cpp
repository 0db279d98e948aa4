#include "end.h"

#include <sys/socket.h>

#include <cerrno>
#include <vector>

namespace rpcmesh {

namespace {

bool would_block() {
    return errno == EAGAIN || errno == EWOULDBLOCK;
}

}  // namespace

size_t End::read(uint8_t * data, size_t size) {
    const size_t got = tls_ ? read_tls(data, size) : read_plain(data, size);
    received_ += got;
    return got;
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
            taken_ += static_cast<uint64_t>(sent);
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
        taken_ += static_cast<uint64_t>(sent);
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

}  // namespace rpcmesh
