#include "buffers.h"

namespace rpcmesh::guard {

namespace {

constexpr uint64_t PAGE_BYTES = 4096;
// Far beyond what a session can use up; below it no sum of an address and a size wraps.
constexpr uint64_t LAST_BASE  = uint64_t(1) << 62;

uint64_t whole_pages(uint64_t size) {
    return (size + PAGE_BYTES - 1) / PAGE_BYTES * PAGE_BYTES;
}

Finding finding(Refusal refusal, std::string detail) {
    Finding found;
    found.refusal = refusal;
    found.detail  = std::move(detail);
    return found;
}

}  // namespace

bool Buffers::has_room(uint64_t size) const {
    // No client asks for 0 bytes, and the worker's buffer of 0 bytes has neither a base nor any operation.
    return size > 0 && size <= MAX_BUFFER_BYTES && size <= room() && slots_.size() - free_handles_.size() < MAX_BUFFERS && next_base_ < LAST_BASE;
}

uint64_t Buffers::room() const {
    return quota_ > allocated_ ? quota_ - allocated_ : 0;
}

const Buffer & Buffers::add(uint32_t device, uint64_t real_handle, uint64_t size) {
    if (free_handles_.empty()) {
        slots_.push_back({});
        free_handles_.push_back(slots_.size());
    }
    const uint64_t handle = free_handles_.back();
    free_handles_.pop_back();
    Buffer & buffer = slots_[slot_of(handle)];
    buffer          = { device, handle, real_handle, size, next_base_, 0 };
    // One page is for the real base's low bits, one keeps the end of a range off the next one's begin.
    next_base_ += whole_pages(size) + 2 * PAGE_BYTES;
    allocated_ += size;
    return buffer;
}

void Buffers::set_real_base(uint64_t handle, uint64_t real_base) {
    if (find(handle) != nullptr && find(handle)->real_base == 0) {
        Buffer & buffer  = slots_[slot_of(handle)];
        buffer.real_base = real_base;
        buffer.base += real_base % PAGE_BYTES;
    }
}

void Buffers::remove(uint64_t handle) {
    if (find(handle) != nullptr) {
        Buffer & buffer = slots_[slot_of(handle)];
        allocated_ -= buffer.size;
        buffer = {};
        free_handles_.push_back(handle + MAX_BUFFERS);
    }
}

const Buffer * Buffers::find_real(uint64_t real_handle) const {
    for (const Buffer & buffer : slots_) {
        if (buffer.handle != 0 && buffer.real_handle == real_handle) {
            return &buffer;
        }
    }
    return nullptr;
}

Finding Buffers::check_range(const Tensor & tensor, Wide size) const {
    if (holds(tensor, size)) {
        return {};
    }
    const Buffer * buffer = find(tensor.buffer);
    if (buffer == nullptr || buffer->real_base == 0) {
        return finding(Refusal::buffer_unknown, "buffer " + std::to_string(tensor.buffer) + " is not one of this session");
    }
    return finding(Refusal::tensor_bounds, "tensor at " + std::to_string(tensor.data) + " leaves its buffer of " +
                                               std::to_string(buffer->size) + " bytes at " + std::to_string(buffer->base));
}

}  // namespace rpcmesh::guard
