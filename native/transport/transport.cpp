// The byte stream under llama.cpp's RPC: implements the socket_t that ggml-rpc's transport.h declares.
// Framing, commands and trust are other files' business; a byte that arrives here is passed on as it is.
//
// A host that begins with '/' is the path of a Unix socket and its port is ignored; any other host is TCP. Writes are
// gathered and leave in one system call at each message boundary (flush), reads are gathered, and a peer that went away
// is an error return, never a SIGPIPE.

#include "transport.h"

#include "ggml-rpc.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <string>
#include <vector>

// The tables in guard/ were written for this protocol; another one must be read before it is let through.
static_assert(RPC_PROTO_MAJOR_VERSION == 7 && RPC_PROTO_MINOR_VERSION == 0 && RPC_PROTO_PATCH_VERSION == 0 && GGML_OP_COUNT == 101,
              "llama.cpp speaks another RPC protocol than the tunnel's frame tables were written for");

namespace {

// Requests of a token are a few hundred bytes to a few KiB each; anything as large as the buffer is not copied through it.
constexpr size_t BUFFER_BYTES = 64 * 1024;

#ifdef MSG_NOSIGNAL
constexpr int SEND_FLAGS = MSG_NOSIGNAL;
#else
constexpr int SEND_FLAGS = 0;  // macOS: SO_NOSIGPIPE is set on each socket
#endif

void prepare(int fd, bool tcp) {
    fcntl(fd, F_SETFD, FD_CLOEXEC);
#ifdef SO_NOSIGPIPE
    const int on = 1;
    setsockopt(fd, SOL_SOCKET, SO_NOSIGPIPE, &on, sizeof(on));
#endif
    if (tcp) {
        const int no_delay = 1;
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &no_delay, sizeof(no_delay));
    }
}

bool unix_address(const char * path, sockaddr_un & address) {
    const size_t length = std::strlen(path);
    if (length >= sizeof(address.sun_path)) {
        errno = ENAMETOOLONG;
        return false;
    }
    address = {};
    address.sun_family = AF_UNIX;
    std::memcpy(address.sun_path, path, length + 1);
    return true;
}

}  // namespace

struct socket_t::impl {
    explicit impl(int fd, bool tcp) : fd(fd), tcp(tcp) { prepare(fd, tcp); }
    ~impl() {
        if (fd >= 0) {
            close(fd);
        }
    }
    impl(const impl &)             = delete;
    impl & operator=(const impl &) = delete;

    // Sends what is gathered, then `size` bytes of `data`, in as few system calls as the kernel allows.
    bool write_all(const void * data, size_t size);
    // Reads at least one byte into `data`; 0 at the end of the stream, negative on error.
    ssize_t read_some(void * data, size_t size) const;

    const int                      fd;
    const bool                     tcp;
    std::array<char, BUFFER_BYTES> out;
    size_t                         out_size = 0;
    std::array<char, BUFFER_BYTES> in;
    size_t                         in_begin = 0;
    size_t                         in_end   = 0;
};

bool socket_t::impl::write_all(const void * data, size_t size) {
    const char * head      = out.data();
    size_t       head_size = out_size;
    const char * body      = static_cast<const char *>(data);
    out_size               = 0;
    while (head_size + size > 0) {
        iovec parts[2] = {
            { const_cast<char *>(head), head_size },
            { const_cast<char *>(body), std::min(size, MAX_CHUNK_SIZE) },
        };
        msghdr message     = {};
        message.msg_iov    = head_size > 0 ? parts : parts + 1;
        message.msg_iovlen = head_size > 0 ? 2 : 1;
        const ssize_t sent = sendmsg(fd, &message, SEND_FLAGS);
        if (sent < 0) {
            if (errno == EINTR) {
                continue;
            }
            return false;
        }
        const size_t from_head = std::min(static_cast<size_t>(sent), head_size);
        const size_t from_body = static_cast<size_t>(sent) - from_head;
        head += from_head;
        head_size -= from_head;
        body += from_body;
        size -= from_body;
    }
    return true;
}

ssize_t socket_t::impl::read_some(void * data, size_t size) const {
    ssize_t got;
    do {
        got = recv(fd, data, std::min(size, MAX_CHUNK_SIZE), 0);
    } while (got < 0 && errno == EINTR);
    return got;
}

socket_t::socket_t(std::unique_ptr<impl> p) : pimpl(std::move(p)) {}

socket_t::~socket_t() = default;

bool socket_t::send_data(const void * data, size_t size) {
    impl & self = *pimpl;
    if (size > self.out.size() - self.out_size) {
        return self.write_all(data, size);
    }
    if (size > 0) {
        std::memcpy(self.out.data() + self.out_size, data, size);
        self.out_size += size;
    }
    return true;
}

bool socket_t::flush() {
    return pimpl->write_all(nullptr, 0);
}

bool socket_t::recv_data(void * data, size_t size) {
    impl & self = *pimpl;
    char * into = static_cast<char *>(data);
    while (size > 0) {
        if (self.in_begin < self.in_end) {
            const size_t n = std::min(size, self.in_end - self.in_begin);
            std::memcpy(into, self.in.data() + self.in_begin, n);
            self.in_begin += n;
            into += n;
            size -= n;
            continue;
        }
        const bool    direct = size >= self.in.size();
        const ssize_t got    = self.read_some(direct ? into : self.in.data(), direct ? size : self.in.size());
        if (got <= 0) {
            return false;
        }
        if (direct) {
            into += got;
            size -= static_cast<size_t>(got);
        } else {
            self.in_begin = 0;
            self.in_end   = static_cast<size_t>(got);
        }
    }
    return true;
}

socket_ptr socket_t::accept() {
    for (;;) {
        const int fd = ::accept(pimpl->fd, nullptr, nullptr);
        if (fd >= 0) {
            return socket_ptr(new socket_t(std::make_unique<impl>(fd, pimpl->tcp)));
        }
        // The server ends when accept fails, so a client that left before it was accepted must not look like a failure.
        if (errno != EINTR && errno != ECONNABORTED) {
            return nullptr;
        }
    }
}

// Capability bytes offer RDMA. All zero, traffic can never leave the socket, and so never leaves the tunnel.
void socket_t::get_caps(uint8_t * local_caps) {
    std::memset(local_caps, 0, RPC_CONN_CAPS_SIZE);
}

void socket_t::update_caps(const uint8_t * /*remote_caps*/) {}

namespace {

// The listening descriptor, or -1 with errno set.
// Made under another name and renamed: whoever sees the socket can connect to it. A stale one is replaced; it outlives
// the worker that made it. Nothing but a socket ever is.
int listen_unix(const char * path) {
    const std::string unfinished = std::string(path) + "~";
    sockaddr_un       address;
    struct stat       found;
    if (!unix_address(unfinished.c_str(), address) || (lstat(path, &found) == 0 && !S_ISSOCK(found.st_mode))) {
        return -1;
    }
    const int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    if (fd < 0) {
        return -1;
    }
    unlink(unfinished.c_str());
    // The mode is right from the file's birth on; nobody can connect in between.
    const mode_t before = umask(0177);
    const bool   bound  = bind(fd, reinterpret_cast<const sockaddr *>(&address), sizeof(address)) == 0;
    umask(before);
    if (!bound || listen(fd, 1) != 0 || rename(unfinished.c_str(), path) != 0) {
        if (bound) {
            unlink(unfinished.c_str());
        }
        close(fd);
        return -1;
    }
    return fd;
}

int connect_unix(const char * path) {
    sockaddr_un address;
    if (!unix_address(path, address)) {
        return -1;
    }
    const int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    if (fd >= 0 && connect(fd, reinterpret_cast<const sockaddr *>(&address), sizeof(address)) != 0) {
        close(fd);
        return -1;
    }
    return fd;
}

// Tries `attempt(fd, address)` on each address that `host` resolves to; the first that succeeds is returned, else -1.
template <typename Attempt> int over_tcp(const char * host, int port, int flags, Attempt attempt) {
    addrinfo hints     = {};
    hints.ai_family    = AF_UNSPEC;
    hints.ai_socktype  = SOCK_STREAM;
    hints.ai_flags     = flags | AI_NUMERICSERV;
    addrinfo * results = nullptr;
    if (getaddrinfo(host, std::to_string(port).c_str(), &hints, &results) != 0) {
        return -1;
    }
    int connected = -1;
    for (const addrinfo * one = results; one != nullptr && connected < 0; one = one->ai_next) {
        const int fd = socket(one->ai_family, one->ai_socktype, one->ai_protocol);
        if (fd < 0) {
            continue;
        }
        if (attempt(fd, one)) {
            connected = fd;
        } else {
            close(fd);
        }
    }
    freeaddrinfo(results);
    return connected;
}

bool is_path(const char * host) {
    return host[0] == '/';
}

}  // namespace

socket_ptr socket_t::create_server(const char * host, int port) {
    const int fd = is_path(host) ? listen_unix(host) : over_tcp(host, port, AI_PASSIVE, [](int candidate, const addrinfo * address) {
        const int reuse = 1;
        setsockopt(candidate, SOL_SOCKET, SO_REUSEADDR, &reuse, sizeof(reuse));
        return bind(candidate, address->ai_addr, address->ai_addrlen) == 0 && listen(candidate, 1) == 0;
    });
    // The server has just printed its devices, and into a pipe they would stay in its buffer until somebody connects.
    std::fflush(stdout);
    return fd < 0 ? nullptr : socket_ptr(new socket_t(std::make_unique<impl>(fd, !is_path(host))));
}

socket_ptr socket_t::connect(const char * host, int port) {
    const int fd = is_path(host) ? connect_unix(host) : over_tcp(host, port, 0, [](int candidate, const addrinfo * address) {
        return ::connect(candidate, address->ai_addr, address->ai_addrlen) == 0;
    });
    return fd < 0 ? nullptr : socket_ptr(new socket_t(std::make_unique<impl>(fd, !is_path(host))));
}

// Called once at the start of a client or server: whatever else the process writes to must not end it either.
bool rpc_transport_init() {
    std::signal(SIGPIPE, SIG_IGN);
    return true;
}

void rpc_transport_shutdown() {}
