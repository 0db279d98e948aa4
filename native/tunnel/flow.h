// One direction of a pump: bytes that were read and not yet written, and bytes of the guard's own that follow them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "end.h"

namespace rpcmesh {

// Bytes of the network's side that were read before the pump began. The guard has passed the first `passed`.
struct Early {
    std::vector<uint8_t> bytes;
    size_t               passed = 0;
};

class Flow {
public:
    Flow();

    // Whether there is something to write: bytes that were passed, or the guard's.
    bool pending() const { return passed_ > 0 || has_own(); }
    bool has_own() const { return own_sent_ < own_.size(); }
    bool can_read() const { return !pending() && end_ - begin_ < buffer_.size(); }
    // Whether the guard has nothing more to do here before more bytes come.
    bool settled() const { return settled_; }
    void set_settled(bool settled) { settled_ = settled; }

    void   preload(const Early & early);
    size_t read_from(End & end);
    size_t write_to(End & end);

    uint8_t * held() { return buffer_.data() + begin_ + passed_; }
    size_t    held_size() const { return end_ - begin_ - passed_; }
    void      pass(size_t size) { passed_ += size; }
    // Forgets the first of the held bytes.
    void      drop(size_t size);
    // The guard's bytes go out behind what was passed so far, and before what is passed later. Where there is room they
    // are inserted, so that they and their neighbours leave in one write, and a worker wakes up once; else they are kept apart.
    void      insert(const std::vector<uint8_t> & bytes);
    void      append(const std::vector<uint8_t> & bytes) { own_.insert(own_.end(), bytes.begin(), bytes.end()); }

private:
    std::vector<uint8_t> buffer_;
    size_t               begin_  = 0;
    size_t               end_    = 0;
    size_t               passed_ = 0;
    std::vector<uint8_t> own_;
    size_t               own_sent_ = 0;
    bool                 settled_  = true;
};

}  // namespace rpcmesh
