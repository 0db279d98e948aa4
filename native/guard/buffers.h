// The buffers that one session has allocated, under handles and addresses of the guard's own. The worker's pointers
// never reach the client, and the client's numbers never reach the worker.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "refusal.h"
#include "tensor.h"

namespace rpcmesh::guard {

struct Buffer {
    uint32_t device;
    uint64_t handle;        // what the client knows; 0: the slot is free
    uint64_t real_handle;   // what the worker knows
    uint64_t size;          // bytes
    uint64_t base;          // the address range [base, base + size) that the client knows
    uint64_t real_base;     // 0 until the worker has said it
};

// A session's buffers together take this many entries at most: small ones cost the worker more than their bytes.
constexpr size_t   MAX_BUFFERS      = 4096;
constexpr uint64_t MAX_BUFFER_BYTES = uint64_t(1) << 46;

class Buffers {
public:
    explicit Buffers(uint64_t quota_bytes) : quota_(quota_bytes) {}

    // Whether one more buffer of `size` bytes, at least 1, is within the quota.
    bool     has_room(uint64_t size) const;
    // Bytes of the quota that are left.
    uint64_t room() const;

    // A buffer that the worker has just granted. Its `base` is chosen so that no two ranges of a session ever meet, and
    // equals `real_base` modulo 4096 once set_base is called; base may therefore be set only once.
    const Buffer & add(uint32_t device, uint64_t real_handle, uint64_t size);
    void           set_real_base(uint64_t handle, uint64_t real_base);
    void           remove(uint64_t handle);

    // Asked some times for each tensor of a graph.
    const Buffer * find(uint64_t handle) const {
        const size_t slot = slot_of(handle);
        return handle != 0 && slot < slots_.size() && slots_[slot].handle == handle ? &slots_[slot] : nullptr;
    }
    const Buffer * find_real(uint64_t real_handle) const;
    uint64_t       allocated() const { return allocated_; }

    // Whether `size` bytes from `data` (a client's address) lie in `tensor.buffer`; and if not, why.
    bool holds(const Tensor & tensor, Wide size) const {
        const Buffer * buffer = find(tensor.buffer);
        return buffer != nullptr && buffer->real_base != 0 && tensor.data >= buffer->base && size <= buffer->size &&
               tensor.data - buffer->base <= buffer->size - static_cast<uint64_t>(size);
    }
    Finding check_range(const Tensor & tensor, Wide size) const;

private:
    // A handle says in which slot its buffer is, and with the rest of its bits which of the slot's buffers: none is used
    // twice, so one that was freed stays unknown.
    static size_t slot_of(uint64_t handle) { return (handle - 1) % MAX_BUFFERS; }

    std::vector<Buffer>   slots_;
    std::vector<uint64_t> free_handles_;  // the next of each free slot
    uint64_t              quota_;
    uint64_t              allocated_ = 0;
    uint64_t              next_base_ = uint64_t(1) << 40;
};

}  // namespace rpcmesh::guard
