// The buffers of one session: what a quota lets in, which addresses they get, and that nothing freed is known again.
#include "buffers.h"

#include <vector>

#include "check.h"

namespace {

using namespace rpcmesh::guard;

constexpr uint64_t GIB  = uint64_t(1) << 30;
constexpr uint64_t PAGE = 4096;

Tensor at(const Buffer & buffer, uint64_t offset) {
    Tensor tensor{};
    tensor.buffer = buffer.handle;
    tensor.data   = buffer.base + offset;
    return tensor;
}

const Buffer & placed(Buffers & buffers, uint64_t size, uint64_t real_base = 0x7f0000000040) {
    static uint64_t real_handle = 0x1000;
    const uint64_t  handle      = buffers.add(0, real_handle++, size).handle;
    buffers.set_real_base(handle, real_base);
    return *buffers.find(handle);
}

void the_quota_counts_all_buffers_together() {
    Buffers buffers(3 * GIB);
    CHECK(buffers.has_room(3 * GIB));
    CHECK(!buffers.has_room(3 * GIB + 1));
    placed(buffers, GIB);
    CHECK(buffers.has_room(2 * GIB));
    CHECK(!buffers.has_room(2 * GIB + 1));
    CHECK_EQ(buffers.room(), 2 * GIB);
}

void alloc_overcommit_of_huge_sizes_has_no_room_and_does_not_wrap() {
    Buffers buffers(UINT64_MAX);
    placed(buffers, GIB);
    CHECK(!buffers.has_room(UINT64_MAX));
    CHECK(!buffers.has_room(UINT64_MAX - GIB));
    CHECK(!buffers.has_room(uint64_t(1) << 63));
    CHECK(buffers.has_room(64 * GIB));
}

void nothing_has_no_room() {
    CHECK(!Buffers(GIB).has_room(0));
}

void a_worker_that_rounds_up_beyond_the_quota_leaves_no_room() {
    Buffers buffers(GIB);
    placed(buffers, 2 * GIB);
    CHECK_EQ(buffers.room(), uint64_t(0));
    CHECK(!buffers.has_room(1));
}

void many_small_buffers_are_too_many() {
    Buffers buffers(GIB);
    for (size_t i = 0; i < MAX_BUFFERS; ++i) {
        CHECK(buffers.has_room(1));
        placed(buffers, 1);
    }
    CHECK(!buffers.has_room(1));
}

void freeing_gives_the_room_back_and_forgets() {
    Buffers        buffers(GIB);
    const uint64_t handle = placed(buffers, GIB).handle;
    buffers.remove(handle);
    CHECK(buffers.find(handle) == nullptr);
    CHECK(buffers.has_room(GIB));
    buffers.remove(handle);
    CHECK_EQ(buffers.allocated(), uint64_t(0));
}

void handles_are_not_used_twice() {
    Buffers        buffers(GIB);
    const uint64_t first = placed(buffers, 1).handle;
    buffers.remove(first);
    CHECK(placed(buffers, 1).handle != first);
}

void handles_say_nothing_of_the_worker_s() {
    Buffers buffers(GIB);
    CHECK_EQ(buffers.add(0, 0x555512345678, 1).handle, uint64_t(1));
    CHECK_EQ(buffers.find_real(0x555512345678)->handle, uint64_t(1));
    CHECK(buffers.find_real(1) == nullptr);
}

void ranges_never_meet_also_after_frees() {
    Buffers             buffers(UINT64_MAX);
    std::vector<Buffer> all;
    for (uint64_t i = 0; i < 300; ++i) {
        all.push_back(placed(buffers, 1 + i * 1733, 0x7f0000000000 + i * 0x1a40));
        if (i % 3 == 0) {
            buffers.remove(all.back().handle);
        }
    }
    for (size_t i = 1; i < all.size(); ++i) {
        check::row = "buffer " + std::to_string(i);
        CHECK(all[i].base > all[i - 1].base + all[i - 1].size);
    }
}

void a_base_is_aligned_as_the_worker_s_is() {
    for (const uint64_t low : { 0, 32, 64, 128, 0x840, 4095 }) {
        Buffers buffers(GIB);
        check::row = "low bits " + std::to_string(low);
        CHECK_EQ(placed(buffers, PAGE, 0x7f5512340000 + low).base % PAGE, low);
    }
}

void a_base_is_set_once() {
    Buffers        buffers(GIB);
    const uint64_t handle = placed(buffers, PAGE, 0x7f5512340040).handle;
    const Buffer   before = *buffers.find(handle);
    buffers.set_real_base(handle, 0x7f5599990080);
    CHECK_EQ(buffers.find(handle)->base, before.base);
    CHECK_EQ(buffers.find(handle)->real_base, before.real_base);
}

void a_range_is_inside_to_the_byte() {
    Buffers        buffers(GIB);
    const Buffer & buffer = placed(buffers, PAGE);
    const auto     check  = [&](uint64_t offset, Wide size) { return buffers.check_range(at(buffer, offset), size).refusal; };
    CHECK(check(0, PAGE) == Refusal::none);
    CHECK(check(PAGE, 0) == Refusal::none);
    CHECK(check(100, PAGE - 100) == Refusal::none);
    CHECK(check(0, PAGE + 1) == Refusal::tensor_bounds);
    CHECK(check(1, PAGE) == Refusal::tensor_bounds);
    CHECK(check(PAGE + 1, 0) == Refusal::tensor_bounds);
    CHECK(check(uint64_t(-1), 1) == Refusal::tensor_bounds);
    CHECK(check(uint64_t(-1), PAGE) == Refusal::tensor_bounds);
}

void an_offset_that_wraps_is_outside() {
    Buffers        buffers(GIB);
    const Buffer & buffer = placed(buffers, PAGE);
    CHECK(buffers.check_range(at(buffer, uint64_t(-16)), 32).refusal == Refusal::tensor_bounds);
    CHECK(buffers.check_range(at(buffer, 16), (Wide(1) << 64) - 16).refusal == Refusal::tensor_bounds);
    CHECK(buffers.check_range(at(buffer, 0), (Wide(1) << 64) + 1).refusal == Refusal::tensor_bounds);
}

void another_buffer_s_address_is_outside() {
    Buffers      buffers(GIB);
    const Buffer one   = placed(buffers, PAGE);
    const Buffer other = placed(buffers, PAGE);
    Tensor       tensor = at(one, 0);
    tensor.data         = other.base;
    CHECK(buffers.check_range(tensor, 1).refusal == Refusal::tensor_bounds);
}

void an_unknown_buffer_and_one_without_a_base_are_unknown() {
    Buffers        buffers(GIB);
    const Buffer & baseless = buffers.add(0, 7, PAGE);
    CHECK(buffers.check_range(at(baseless, 0), 1).refusal == Refusal::buffer_unknown);
    CHECK(buffers.check_range(Tensor{}, 0).refusal == Refusal::buffer_unknown);
    Tensor tensor = at(baseless, 0);
    tensor.buffer = 7;
    CHECK(buffers.check_range(tensor, 1).refusal == Refusal::buffer_unknown);
}

}  // namespace

int main() {
    return check::run({
        TEST(the_quota_counts_all_buffers_together),
        TEST(alloc_overcommit_of_huge_sizes_has_no_room_and_does_not_wrap),
        TEST(nothing_has_no_room),
        TEST(a_worker_that_rounds_up_beyond_the_quota_leaves_no_room),
        TEST(many_small_buffers_are_too_many),
        TEST(freeing_gives_the_room_back_and_forgets),
        TEST(handles_are_not_used_twice),
        TEST(handles_say_nothing_of_the_worker_s),
        TEST(ranges_never_meet_also_after_frees),
        TEST(a_base_is_aligned_as_the_worker_s_is),
        TEST(a_base_is_set_once),
        TEST(a_range_is_inside_to_the_byte),
        TEST(an_offset_that_wraps_is_outside),
        TEST(another_buffer_s_address_is_outside),
        TEST(an_unknown_buffer_and_one_without_a_base_are_unknown),
    });
}
