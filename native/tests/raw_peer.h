// The other end of the transport's socket, by hand: what it sees is what is on the wire.
#pragma once

#include "transport.h"

#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "check.h"

using Bytes = std::vector<char>;

constexpr size_t BUFFER_BYTES = 64 * 1024;

class Folder {
public:
    Folder() {
        char name[] = "/tmp/rm-XXXXXX";
        CHECK(mkdtemp(name) != nullptr);
        path_ = name;
    }
    Folder(const Folder &)             = delete;
    Folder & operator=(const Folder &) = delete;
    ~Folder() {
        unlink(socket().c_str());
        rmdir(path_.c_str());
    }
    std::string socket() const { return path_ + "/w.sock"; }

private:
    std::string path_;
};

class RawPeer {
public:
    explicit RawPeer(const std::string & path, int send_buffer = 0) : fd_(socket(AF_UNIX, SOCK_STREAM, 0)) {
        sockaddr_un address = {};
        address.sun_family  = AF_UNIX;
        std::memcpy(address.sun_path, path.c_str(), path.size() + 1);
        if (send_buffer > 0) {
            setsockopt(fd_, SOL_SOCKET, SO_SNDBUF, &send_buffer, sizeof(send_buffer));
        }
        CHECK(connect(fd_, reinterpret_cast<const sockaddr *>(&address), sizeof(address)) == 0);
    }
    RawPeer(const RawPeer &)             = delete;
    RawPeer & operator=(const RawPeer &) = delete;
    ~RawPeer() { leave(); }

    void leave() {
        if (fd_ >= 0) {
            close(fd_);
        }
        fd_ = -1;
    }
    void end_write() const { shutdown(fd_, SHUT_WR); }

    void write(const char * data, size_t size) const {
        while (size > 0) {
            const ssize_t sent = send(fd_, data, size, 0);
            if (sent < 0 && errno != EINTR) {
                check::fail("the raw peer cannot send", __FILE__, __LINE__);
                return;
            }
            const size_t gone = sent < 0 ? 0 : static_cast<size_t>(sent);
            data += gone;
            size -= gone;
        }
    }

    // What is there now, at most `size` bytes in one system call.
    Bytes read_now(size_t size) const {
        Bytes         bytes(size);
        const ssize_t got = recv(fd_, bytes.data(), size, MSG_DONTWAIT);
        bytes.resize(got < 0 ? 0 : static_cast<size_t>(got));
        return bytes;
    }

    // `size` bytes, read in pieces of at most `piece`; fewer at the end of the stream.
    Bytes read(size_t size, size_t piece) const {
        Bytes  bytes(size);
        size_t have = 0;
        while (have < size) {
            const ssize_t got = recv(fd_, bytes.data() + have, std::min(piece, size - have), 0);
            if (got == 0 || (got < 0 && errno != EINTR)) {
                break;
            }
            have += got < 0 ? 0 : static_cast<size_t>(got);
        }
        bytes.resize(have);
        return bytes;
    }

private:
    int fd_;
};

// One connection: `peer` by hand, `ours` through the transport.
struct Connection {
    explicit Connection(int send_buffer = 0) :
        server(socket_t::create_server(folder.socket().c_str(), 1)),
        peer(folder.socket(), send_buffer),
        ours(server->accept()) {}

    Folder     folder;
    socket_ptr server;
    RawPeer    peer;
    socket_ptr ours;
};

inline Bytes random_bytes(size_t size, unsigned seed = 5) {
    std::mt19937 random(seed);
    Bytes        bytes(size);
    for (char & byte : bytes) {
        byte = static_cast<char>(random());
    }
    return bytes;
}
