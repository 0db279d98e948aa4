#include "fd.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <memory>

namespace rpcmesh {

namespace {

constexpr int BACKLOG = 64;

#ifdef MSG_NOSIGNAL
constexpr int SEND_FLAGS = MSG_NOSIGNAL;
#else
constexpr int SEND_FLAGS = 0;  // macOS: SO_NOSIGPIPE below
#endif

void set_int(int fd, int level, int option, int value) {
    setsockopt(fd, level, option, &value, sizeof(value));
}

void prepare(int fd) {
    fcntl(fd, F_SETFD, FD_CLOEXEC);
    fcntl(fd, F_SETFL, O_NONBLOCK);
#ifdef SO_NOSIGPIPE
    set_int(fd, SOL_SOCKET, SO_NOSIGPIPE, 1);
#endif
}

Fd new_socket(int family) {
    Fd fd(socket(family, SOCK_STREAM, 0));
    if (fd.valid()) {
        prepare(fd.get());
    }
    return fd;
}

struct FreeAddresses {
    void operator()(addrinfo * list) const { freeaddrinfo(list); }
};
using Addresses = std::unique_ptr<addrinfo, FreeAddresses>;

Addresses resolve(const std::string & address, int flags) {
    std::string host;
    std::string port;
    if (!split_address(address, host, port)) {
        errno = EINVAL;
        return nullptr;
    }
    addrinfo hints    = {};
    hints.ai_socktype = SOCK_STREAM;
    hints.ai_flags    = flags | AI_NUMERICSERV;
    addrinfo * found  = nullptr;
    if (getaddrinfo(host.c_str(), port.c_str(), &hints, &found) != 0) {
        errno = EADDRNOTAVAIL;
        return nullptr;
    }
    return Addresses(found);
}

bool unix_address(const std::string & path, sockaddr_un & address) {
    if (path.size() >= sizeof(address.sun_path)) {
        errno = ENAMETOOLONG;
        return false;
    }
    address            = {};
    address.sun_family = AF_UNIX;
    std::memcpy(address.sun_path, path.c_str(), path.size() + 1);
    return true;
}

std::string text_of(const sockaddr_storage & address, socklen_t length) {
    if (address.ss_family == AF_UNIX) {
        return "local";
    }
    char host[NI_MAXHOST];
    char port[NI_MAXSERV];
    const auto * generic = reinterpret_cast<const sockaddr *>(&address);
    if (getnameinfo(generic, length, host, sizeof(host), port, sizeof(port), NI_NUMERICHOST | NI_NUMERICSERV) != 0) {
        return "unknown";
    }
    const bool v6 = std::strchr(host, ':') != nullptr;
    return (v6 ? "[" + std::string(host) + "]" : std::string(host)) + ":" + port;
}

}  // namespace

Fd::~Fd() {
    if (fd_ >= 0) {
        close(fd_);
    }
}

Pipe make_pipe() {
    int ends[2];
    if (pipe(ends) != 0) {
        return {};
    }
    for (const int end : ends) {
        fcntl(end, F_SETFD, FD_CLOEXEC);
        fcntl(end, F_SETFL, O_NONBLOCK);
    }
    return { Fd(ends[0]), Fd(ends[1]) };
}

bool split_address(const std::string & text, std::string & host, std::string & port) {
    const size_t colon = text.rfind(':');
    if (colon == std::string::npos || colon == 0 || colon + 1 == text.size()) {
        return false;
    }
    host = text.substr(0, colon);
    port = text.substr(colon + 1);
    if (host.front() == '[' && host.back() == ']') {
        host = host.substr(1, host.size() - 2);
    } else if (host.find(':') != std::string::npos) {
        return false;
    }
    const bool digits = std::all_of(port.begin(), port.end(), [](char c) { return c >= '0' && c <= '9'; });
    return digits && port.size() <= 5 && std::stoi(port) <= 65535 && !host.empty();
}

Fd listen_tcp(const std::string & address) {
    const Addresses found = resolve(address, AI_PASSIVE | AI_NUMERICHOST);
    if (!found) {
        return {};
    }
    Fd fd = new_socket(found->ai_family);
    if (fd.valid()) {
        set_int(fd.get(), SOL_SOCKET, SO_REUSEADDR, 1);
        if (bind(fd.get(), found->ai_addr, found->ai_addrlen) == 0 && listen(fd.get(), BACKLOG) == 0) {
            return fd;
        }
    }
    return {};
}

std::string bound_address(int fd) {
    sockaddr_storage address = {};
    socklen_t        length  = sizeof(address);
    getsockname(fd, reinterpret_cast<sockaddr *>(&address), &length);
    return text_of(address, length);
}

bool is_loopback(const std::string & address) {
    const Addresses found = resolve(address, AI_NUMERICHOST);
    if (!found) {
        return false;
    }
    if (found->ai_family == AF_INET) {
        const auto * v4 = reinterpret_cast<const sockaddr_in *>(found->ai_addr);
        return ntohl(v4->sin_addr.s_addr) >> 24 == 127;
    }
    const auto * v6 = reinterpret_cast<const sockaddr_in6 *>(found->ai_addr);
    return IN6_IS_ADDR_LOOPBACK(&v6->sin6_addr) != 0;
}

// Made under another name and renamed: whoever sees the socket can connect to it.
Fd listen_unix(const std::string & path) {
    const std::string unfinished = path + "~";
    sockaddr_un       address;
    struct stat       found;
    if (!unix_address(unfinished, address)) {
        return {};
    }
    if (lstat(path.c_str(), &found) == 0 && !S_ISSOCK(found.st_mode)) {
        errno = EEXIST;
        return {};
    }
    Fd fd = new_socket(AF_UNIX);
    unlink(unfinished.c_str());
    const mode_t before = umask(0177);
    const bool   bound  = fd.valid() && bind(fd.get(), reinterpret_cast<const sockaddr *>(&address), sizeof(address)) == 0;
    umask(before);
    if (!bound || listen(fd.get(), BACKLOG) != 0 || rename(unfinished.c_str(), path.c_str()) != 0) {
        const int saved = errno;
        if (bound) {
            unlink(unfinished.c_str());
        }
        errno = saved;
        return {};
    }
    return fd;
}

Fd connect_unix(const std::string & path) {
    sockaddr_un address;
    if (!unix_address(path, address)) {
        return {};
    }
    Fd fd = new_socket(AF_UNIX);
    if (!fd.valid() || connect(fd.get(), reinterpret_cast<const sockaddr *>(&address), sizeof(address)) != 0) {
        return {};
    }
    return fd;
}

Fd connect_tcp(const std::string & address, TimePoint deadline, int wake_fd) {
    const Addresses found = resolve(address, 0);
    for (const addrinfo * one = found.get(); one != nullptr; one = one->ai_next) {
        Fd fd = new_socket(one->ai_family);
        if (!fd.valid()) {
            continue;
        }
        if (connect(fd.get(), one->ai_addr, one->ai_addrlen) == 0) {
            return fd;
        }
        if (errno != EINPROGRESS) {
            continue;
        }
        const Waited waited = wait_for(fd.get(), POLLOUT, wake_fd, deadline);
        if (waited != Waited::ready) {
            return {};
        }
        int       error  = 0;
        socklen_t length = sizeof(error);
        getsockopt(fd.get(), SOL_SOCKET, SO_ERROR, &error, &length);
        if (error == 0) {
            return fd;
        }
    }
    return {};
}

Fd accept_from(int listener, std::string & from) {
    sockaddr_storage address = {};
    socklen_t        length  = sizeof(address);
    Fd               fd(accept(listener, reinterpret_cast<sockaddr *>(&address), &length));
    if (fd.valid()) {
        prepare(fd.get());
        from = text_of(address, length);
    }
    return fd;
}

void tune_tcp(int fd, int silence_s) {
    set_int(fd, IPPROTO_TCP, TCP_NODELAY, 1);
    set_int(fd, SOL_SOCKET, SO_KEEPALIVE, 1);
    // First probe after one second of silence, then one a second; the last one unanswered ends the connection.
    set_int(fd, IPPROTO_TCP, TCP_KEEPINTVL, 1);
    set_int(fd, IPPROTO_TCP, TCP_KEEPCNT, std::max(1, silence_s - 1));
#ifdef TCP_KEEPIDLE
    set_int(fd, IPPROTO_TCP, TCP_KEEPIDLE, 1);
#else
    set_int(fd, IPPROTO_TCP, TCP_KEEPALIVE, 1);
#endif
#ifdef TCP_RXT_CONNDROPTIME
    set_int(fd, IPPROTO_TCP, TCP_RXT_CONNDROPTIME, silence_s);
#endif
}

bool Silence::look(int fd, TimePoint now) {
#ifdef __linux__
    // Not TCP_USER_TIMEOUT: it also ends connections whose peer is alive but has a full window, as a busy worker's has.
    tcp_info  seen   = {};
    socklen_t length = sizeof(seen);
    if (getsockopt(fd, IPPROTO_TCP, TCP_INFO, &seen, &length) != 0) {
        return false;
    }
    if (seen.tcpi_unacked > 0 && seen.tcpi_last_ack_recv >= limit_.count()) {
        return true;
    }
    // With a full window nothing is in flight; the kernel asks at growing distances whether it has opened. These are the
    // questions since the last answer. When that came says nothing here: it may be long ago because nobody asked.
    if (seen.tcpi_probes == 0) {
        asked_ = false;
    } else if (!asked_) {
        asked_       = true;
        asked_since_ = now;
    }
    return asked_ && now - asked_since_ >= limit_;
#else
    // macOS ends the connection by itself: see TCP_RXT_CONNDROPTIME above.
    (void) fd;
    (void) now;
    (void) limit_;
    (void) asked_since_;
    return asked_;
#endif
}

ssize_t receive_some(int fd, void * data, size_t size) {
    ssize_t got;
    do {
        got = recv(fd, data, size, 0);
    } while (got < 0 && errno == EINTR);
    return got;
}

ssize_t send_some(int fd, const void * data, size_t size) {
    ssize_t sent;
    do {
        sent = send(fd, data, size, SEND_FLAGS);
    } while (sent < 0 && errno == EINTR);
    return sent;
}

Waited wait_for(int fd, short events, int wake_fd, TimePoint deadline) {
    for (;;) {
        const auto left_ms = std::chrono::duration_cast<std::chrono::milliseconds>(deadline - Clock::now()).count();
        if (left_ms <= 0) {
            return Waited::timed_out;
        }
        pollfd watched[2] = { { fd, events, 0 }, { wake_fd, POLLIN, 0 } };
        const int ready   = poll(watched, 2, static_cast<int>(std::min<long long>(left_ms, 60'000)));
        if (ready > 0) {
            return watched[1].revents != 0 ? Waited::woken : Waited::ready;
        }
    }
}

}  // namespace rpcmesh
