// Little-endian integers on the wire and the frames' fixed parts (protocol 7.0.0). Offsets count from a payload's begin.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace rpcmesh::guard {

constexpr size_t REQUEST_HEADER_BYTES = 9;  // u8 command | u64 length
constexpr size_t REPLY_HEADER_BYTES   = 8;  // u64 length

// Written out, as compilers turn these and not a loop into one load: a graph has some hundred thousand fields.
inline uint32_t load32(const uint8_t * from) {
    return uint32_t(from[0]) | uint32_t(from[1]) << 8 | uint32_t(from[2]) << 16 | uint32_t(from[3]) << 24;
}

inline uint64_t load64(const uint8_t * from) {
    return load32(from) | uint64_t(load32(from + 4)) << 32;
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
