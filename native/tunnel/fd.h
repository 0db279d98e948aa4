// Descriptors that close themselves, and the few socket calls whose spelling differs between Linux and macOS.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <cstddef>
#include <string>
#include <utility>

namespace rpcmesh {

using Clock     = std::chrono::steady_clock;
using TimePoint = Clock::time_point;

class Fd {
public:
    Fd() = default;
    explicit Fd(int fd) : fd_(fd) {}
    Fd(Fd && other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
    Fd & operator=(Fd && other) noexcept {
        std::swap(fd_, other.fd_);
        return *this;
    }
    Fd(const Fd &)             = delete;
    Fd & operator=(const Fd &) = delete;
    ~Fd();

    int  get() const { return fd_; }
    bool valid() const { return fd_ >= 0; }
    void reset() { Fd().swap(*this); }

private:
    void swap(Fd & other) { std::swap(fd_, other.fd_); }

    int fd_ = -1;
};

struct Pipe {
    Fd read;
    Fd write;
};

// Non-blocking at both ends, closed on exec.
Pipe make_pipe();

// HOST:PORT or [V6]:PORT, split. False if `text` is neither.
bool split_address(const std::string & text, std::string & host, std::string & port);

// A listening TCP socket on a numeric address, or an invalid Fd with errno set.
Fd listen_tcp(const std::string & address);
// The address that a socket is bound to, as HOST:PORT.
std::string bound_address(int fd);
bool        is_loopback(const std::string & address);

// A listening Unix socket of mode 0600 from its birth on; a stale one is replaced, nothing else ever is. Invalid with
// errno set on failure.
Fd listen_unix(const std::string & path);
// Connected within the kernel at once, or invalid.
Fd connect_unix(const std::string & path);

// Begins to connect to each address of `address` in turn until one is connected or `deadline` has passed.
// `wake_fd` becoming readable ends the attempt. Invalid on failure.
Fd connect_tcp(const std::string & address, TimePoint deadline, int wake_fd);

// Accepts one connection, non-blocking and closed on exec. `from` says where it comes from.
Fd accept_from(int listener, std::string & from);

// No delay, and keepalive that notices a vanished idle peer within `silence_s` seconds.
void tune_tcp(int fd, int silence_s);

// Notices that the peer of one TCP connection has vanished while something is to be sent to it. With nothing to send,
// keepalive does. A full receive window is no silence: a peer that lives answers the kernel's questions about it.
class Silence {
public:
    explicit Silence(int limit_ms) : limit_(limit_ms) {}

    // To be called now and again. True once the peer has left what was sent, or asked, without an answer for the limit.
    bool look(int fd, TimePoint now);

private:
    const std::chrono::milliseconds limit_;
    bool                            asked_ = false;
    TimePoint                       asked_since_;
};

// recv and send without SIGPIPE. Like the system calls: -1 with errno.
ssize_t receive_some(int fd, void * data, size_t size);
ssize_t send_some(int fd, const void * data, size_t size);

// Waits for `events` on `fd`, or for `wake_fd` to become readable, until `deadline`.
enum class Waited { ready, woken, timed_out };
Waited wait_for(int fd, short events, int wake_fd, TimePoint deadline);

}  // namespace rpcmesh
