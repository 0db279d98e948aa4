// Checks the framing of one RPC connection, client to worker: HELLO first, whole and once; known commands; lengths
// within bounds. Bytes in, verdict out; no I/O. What tensors and graphs say is not looked at here.
//
// Request: u8 command | u64 length (little-endian) | payload. Reply: u64 length | payload. Protocol 7.0.0.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

namespace rpcmesh {

constexpr size_t HELLO_CAPS_BYTES    = 24;
constexpr size_t FRAME_HEADER_BYTES  = 9;
constexpr size_t HELLO_FRAME_BYTES   = FRAME_HEADER_BYTES + HELLO_CAPS_BYTES;
constexpr size_t REPLY_HEADER_BYTES  = 8;
constexpr size_t HELLO_VERSION_BYTES = 4;

class RequestFrames {
public:
    enum class Verdict { ok, hello_invalid, frame_invalid };

    // Looks at the next `size` bytes and zeroes HELLO's capability bytes among them in place. `passed` is how many from
    // the front may be forwarded; the rest, at most HELLO_FRAME_BYTES, is to be presented again with more behind it.
    Verdict inspect(uint8_t * data, size_t size, size_t & passed);

    // Whether a whole and valid HELLO was seen.
    bool greeted() const { return greeted_; }

    // The last command that began, for the log; -1 before the first.
    int last_command() const { return last_command_; }

private:
    bool     greeted_      = false;
    int      last_command_ = -1;
    uint64_t payload_left_ = 0;
};

// The worker's replies: only the capability bytes of the first one, to HELLO, are touched.
class ReplyCaps {
public:
    void zero(uint8_t * data, size_t size);

private:
    uint64_t seen_ = 0;
};

}  // namespace rpcmesh
