// Moves bytes both ways between two ends until one of them ends. The ends are TLS over TCP or a plain socket.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "fd.h"
#include "guard/guard.h"
#include "reason.h"
#include "registry.h"
#include "tls.h"

namespace rpcmesh {

// One side of a tunnel: a non-blocking descriptor, with TLS on it or not.
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
    // Whether read() may give more without waiting.
    bool has_more() const { return has_more_; }
    bool has_unsent() const;

private:
    size_t read_plain(uint8_t * data, size_t size);
    size_t read_tls(uint8_t * data, size_t size);

    Fd                         fd_;
    std::unique_ptr<TlsStream> tls_;
    bool                       read_ended_  = false;
    bool                       write_ended_ = false;
    bool                       broken_      = false;
    bool                       has_more_    = false;
};

// Bytes of the network's side that were read before the pump began. The guard has passed the first `passed`.
struct Early {
    std::vector<uint8_t> bytes;
    size_t               passed = 0;
};

// `far` is the network's side, `near` the local one. `guard` stands between the two, and is null where the bytes are not
// RPC; frame_invalid: see its finding.
Reason pump(End & far, End & near, const Early & early, guard::Guard * guard, Session & session, int silence_ms);

}  // namespace rpcmesh
