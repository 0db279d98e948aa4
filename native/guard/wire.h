// Little-endian integers on the wire and the frames' fixed parts (protocol 7.0.0). Offsets count from a payload's begin.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace rpcmesh::guard {

constexpr size_t REQUEST_HEADER_BYTES = 9;  // u8 command | u64 length
constexpr size_t REPLY_HEADER_BYTES   = 8;  // u64 length

inline uint64_t load(const uint8_t * from, size_t bytes) {
    uint64_t value = 0;
    for (size_t i = bytes; i > 0; --i) {
        value = value << 8 | from[i - 1];
    }
    return value;
}

inline uint64_t load64(const uint8_t * from) {
    return load(from, 8);
}

inline uint32_t load32(const uint8_t * from) {
    return static_cast<uint32_t>(load(from, 4));
}

inline void store(uint8_t * to, uint64_t value, size_t bytes) {
    for (size_t i = 0; i < bytes; ++i) {
        to[i] = static_cast<uint8_t>(value >> (8 * i));
    }
}

inline void store64(uint8_t * to, uint64_t value) {
    store(to, value, 8);
}

inline void append(std::vector<uint8_t> & to, uint64_t value, size_t bytes) {
    to.resize(to.size() + bytes);
    store(to.data() + to.size() - bytes, value, bytes);
}

inline void append_header(std::vector<uint8_t> & to, uint8_t command, uint64_t length) {
    append(to, command, 1);
    append(to, length, 8);
}

}  // namespace rpcmesh::guard
