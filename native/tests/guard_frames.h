// Requests as a client would send them, field by field. Nothing here knows the guard's state.
#pragma once

#include <array>
#include <cstdint>
#include <initializer_list>
#include <vector>

#include "commands.h"
#include "tensor.h"
#include "wire.h"

namespace frames {

using namespace rpcmesh::guard;
using Bytes = std::vector<uint8_t>;

constexpr uint32_t F32  = 0;
constexpr uint32_t Q4_1 = 3;  // blocks of 32 in 20 bytes
constexpr uint32_t ADD  = 2;
constexpr uint32_t FLASH_ATTN_EXT = 74;

inline Bytes operator+(Bytes left, const Bytes & right) {
    left.insert(left.end(), right.begin(), right.end());
    return left;
}

inline Bytes number(uint64_t value, size_t bytes) {
    Bytes out;
    append(out, value, bytes);
    return out;
}

inline Bytes header(uint8_t command, uint64_t length) {
    return number(command, 1) + number(length, 8);
}

inline Bytes frame(uint8_t command, const Bytes & payload) {
    return header(command, payload.size()) + payload;
}

inline Bytes reply(const Bytes & payload) {
    return number(payload.size(), 8) + payload;
}

// A tensor's fields before they are bytes; strides are those of contiguous rows unless they are changed.
struct Wanted {
    uint64_t                id     = 0x1000;
    uint32_t                type   = F32;
    uint64_t                buffer = 0;
    uint64_t                data   = 0;
    std::array<uint32_t, 4> ne     = { { 64, 1, 1, 1 } };
    std::array<uint32_t, 4> nb     = { { 0, 0, 0, 0 } };  // all 0: contiguous
    uint32_t                op     = 0;
    int32_t                 flags  = 0;
    std::vector<uint64_t>   src;
    std::vector<int32_t>    params;  // the first of op_params
    uint64_t                view_src = 0;
};

inline Bytes tensor(const Wanted & wanted) {
    Bytes                   out(TENSOR_BYTES);
    std::array<uint32_t, 4> nb = wanted.nb;
    if (nb == std::array<uint32_t, 4>{}) {
        const Type & type = type_of(wanted.type);
        nb[0]             = type.bytes;
        nb[1]             = type.block == 0 ? 0 : wanted.ne[0] / type.block * type.bytes;
        nb[2]             = nb[1] * wanted.ne[1];
        nb[3]             = nb[2] * wanted.ne[2];
    }
    store64(&out[0], wanted.id);
    store(&out[8], wanted.type, 4);
    store64(&out[12], wanted.buffer);
    for (size_t i = 0; i < 4; ++i) {
        store(&out[20 + 4 * i], wanted.ne[i], 4);
        store(&out[36 + 4 * i], nb[i], 4);
    }
    store(&out[52], wanted.op, 4);
    store(&out[120], static_cast<uint32_t>(wanted.flags), 4);
    for (size_t i = 0; i < wanted.src.size(); ++i) {
        store64(&out[124 + 8 * i], wanted.src[i]);
    }
    for (size_t i = 0; i < wanted.params.size(); ++i) {
        store(&out[56 + 4 * i], static_cast<uint32_t>(wanted.params[i]), 4);
    }
    store64(&out[204], wanted.view_src);
    store64(&out[220], wanted.data);
    return out;
}

inline Bytes hello(uint8_t caps = 0) {
    return frame(HELLO, Bytes(CAPS_BYTES, caps));
}

inline Bytes alloc(uint64_t size, uint32_t device = 0) {
    return frame(ALLOC_BUFFER, number(device, 4) + number(size, 8));
}

inline Bytes of_device(uint8_t command, uint32_t device = 0) {
    return frame(command, number(device, 4));
}

inline Bytes of_buffer(uint8_t command, uint64_t handle) {
    return frame(command, number(handle, 8));
}

inline Bytes clear(uint64_t handle, uint8_t value) {
    return frame(BUFFER_CLEAR, number(handle, 8) + number(value, 1));
}

inline Bytes set(const Bytes & where, uint64_t offset, const Bytes & data, uint8_t cache = 0) {
    return frame(SET_TENSOR, where + number(cache, 1) + number(offset, 8) + data);
}

inline Bytes set_hash(const Bytes & where, uint64_t offset, uint64_t hash) {
    return frame(SET_TENSOR_HASH, where + number(offset, 8) + number(hash, 8));
}

inline Bytes get(const Bytes & where, uint64_t offset, uint64_t size) {
    return frame(GET_TENSOR, where + number(offset, 8) + number(size, 8));
}

inline Bytes fill(const Bytes & where, uint64_t offset, uint64_t size, uint8_t value) {
    return frame(MEMSET_TENSOR, where + number(offset, 8) + number(size, 8) + number(value, 1));
}

inline Bytes copy(const Bytes & source, const Bytes & target) {
    return frame(COPY_TENSOR, source + target);
}

inline Bytes init(const Bytes & where) {
    return frame(INIT_TENSOR, where);
}

inline Bytes alloc_size(const Bytes & self, const std::vector<Bytes> & sources = {}, uint32_t device = 0) {
    Bytes payload = number(device, 4) + self;
    for (const Bytes & source : sources) {
        payload = payload + source;
    }
    payload.resize(command_of(GET_ALLOC_SIZE).payload_bytes);
    return frame(GET_ALLOC_SIZE, payload);
}

inline Bytes graph(const std::vector<uint64_t> & nodes, const std::vector<Bytes> & tensors, uint32_t device = 0) {
    Bytes payload = number(device, 4) + number(nodes.size(), 4);
    for (const uint64_t id : nodes) {
        append(payload, id, 8);
    }
    append(payload, tensors.size(), 4);
    for (const Bytes & one : tensors) {
        payload.insert(payload.end(), one.begin(), one.end());
    }
    return frame(GRAPH_COMPUTE, payload);
}

// c = a + b, 64 floats each, side by side from `data` in `buffer`.
inline Bytes sum_graph(uint64_t buffer, uint64_t data, uint32_t device = 0) {
    Wanted a;
    a.id     = 0xa0;
    a.buffer = buffer;
    a.data   = data;
    Wanted b = a;
    b.id     = 0xb0;
    b.data   = data + 256;
    Wanted c = a;
    c.id     = 0xc0;
    c.data   = data + 512;
    c.op     = ADD;
    c.flags  = 16;
    c.src    = { a.id, b.id };
    return graph({ c.id }, { tensor(a), tensor(b), tensor(c) }, device);
}

}  // namespace frames
