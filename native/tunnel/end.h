// One side of a tunnel: a non-blocking descriptor, with TLS on it or not.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

#include "fd.h"
#include "tls.h"

namespace rpcmesh {

// What is read at a time, and the most that one direction holds.
constexpr size_t BUFFER_BYTES = 256 * 1024;

class End {
public:
    explicit End(Fd fd, std::unique_ptr<TlsStream> tls = nullptr) : fd_(std::move(fd)), tls_(std::move(tls)) {}

    int         fd() const { return fd_.get(); }
    TlsStream * tls() const { return tls_.get(); }

    // Reads what is there, at most `size` bytes of plaintext. 0: nothing now. Sets read_ended() at the end.
    size_t read(uint8_t * data, size_t size);
    // Writes what fits. For TLS all of it is encrypted at once and the ciphertext is kept until it fits.
    size_t write(const uint8_t * data, size_t size);
    // Sends kept ciphertext. True when none is left.
    bool flush();
    void end_write();

    bool read_ended() const { return read_ended_; }
    bool broken() const { return broken_; }
    bool ended() const { return read_ended_ || broken_; }
    // Whether read() may give more without waiting.
    bool has_more() const { return has_more_; }
    bool has_unsent() const;

    // How much was read so far, as plaintext, and how much the system took of what was written, as it goes over the wire.
    uint64_t received() const { return received_; }
    uint64_t taken() const { return taken_; }

private:
    size_t read_plain(uint8_t * data, size_t size);
    size_t read_tls(uint8_t * data, size_t size);

    Fd                         fd_;
    std::unique_ptr<TlsStream> tls_;
    bool                       read_ended_  = false;
    bool                       write_ended_ = false;
    bool                       broken_      = false;
    bool                       has_more_    = false;
    uint64_t                   received_    = 0;
    uint64_t                   taken_       = 0;
};

}  // namespace rpcmesh
