// Buffers in a session: cleared before use, within the quota, under handles and addresses of the guard's own.
#include "guard_session.h"

namespace {

using namespace frames;

constexpr uint64_t MIB = uint64_t(1) << 20;

Limits quota(uint64_t bytes) {
    Limits limits;
    limits.memory_bytes = bytes;
    return limits;
}

std::vector<int> commands_of(const FakeWorker & worker) {
    std::vector<int> commands;
    for (const FakeWorker::Request & request : worker.requests) {
        commands.push_back(request.command);
    }
    return commands;
}

void a_fresh_buffer_that_shows_the_previous_session_s_bytes_is_cleared_before_the_client_s_next_byte() {
    Relay relay;
    relay.send(hello());
    relay.send(alloc(MIB) + of_device(GET_ALIGNMENT));
    CHECK(commands_of(relay.worker) == (std::vector<int>{ HELLO, ALLOC_BUFFER, BUFFER_GET_BASE, BUFFER_CLEAR, GET_ALIGNMENT }));
    const Bytes & cleared = relay.worker.requests[3].payload;
    CHECK_EQ(load64(&cleared[0]), relay.worker.buffers.begin()->first);
    CHECK_EQ(int(cleared[8]), 0);
}

void heap_addresses_that_would_leak_in_remote_ptr_and_base_are_virtual() {
    const Session session;
    CHECK_EQ(session.handle, uint64_t(1));
    CHECK(session.handle != session.real_handle());
    CHECK(session.base != session.real().base);
    CHECK_EQ(session.base % 4096, session.real().base % 4096);
    for (size_t at = 0; at + 8 <= session.to_client.size(); ++at) {
        CHECK(!session.worker.is_secret(load64(&session.to_client[at])));
    }
}

void the_size_is_the_worker_s() {
    Relay relay;
    relay.send(hello());
    CHECK_EQ(load64(&relay.ask(alloc(12345))[16]), uint64_t(12345));
}

void the_guard_answers_for_the_base_itself() {
    Session session;
    const size_t before = session.worker.requests.size();
    CHECK(session.ask(of_buffer(BUFFER_GET_BASE, session.handle)) == reply(number(session.base, 8)));
    CHECK_EQ(session.worker.requests.size(), before);
}

void a_base_is_known_also_to_a_client_that_never_asked() {
    Relay relay;
    relay.send(hello());
    const uint64_t handle = load64(&relay.ask(alloc(MIB))[8]);
    Wanted         floats;
    floats.buffer = handle;
    floats.data   = (uint64_t(1) << 40) + 0x40;
    relay.send(set(tensor(floats), 0, Bytes(256, 1)));
    CHECK(relay.refusal() == Refusal::none);
    CHECK(relay.worker.last().command == SET_TENSOR);
}

void alloc_overcommit_is_answered_as_out_of_memory_and_the_session_goes_on() {
    for (const uint64_t size : { 4 * MIB + 1, uint64_t(96) << 30, ~uint64_t(0), uint64_t(0) }) {
        Session session(quota(5 * MIB));
        check::row          = "size " + std::to_string(size);
        const size_t before = session.to_worker.size();
        CHECK(session.ask(alloc(size)) == reply(Bytes(16)));
        CHECK_EQ(session.to_worker.size(), before);
        CHECK(session.ask(alloc(4 * MIB)) != reply(Bytes(16)));
        CHECK(session.refusal() == Refusal::none);
    }
}

void a_worker_without_memory_is_not_charged_and_not_asked_for_a_base() {
    Session session(quota(5 * MIB));
    session.worker.memory = 0;
    CHECK(session.ask(alloc(4 * MIB)) == reply(Bytes(16)));
    CHECK(session.worker.last().command == ALLOC_BUFFER);
    session.worker.memory = 4 * MIB;
    CHECK(session.ask(alloc(4 * MIB)) != reply(Bytes(16)));
}

void the_free_memory_told_is_what_the_quota_leaves() {
    Session session(quota(5 * MIB));
    session.worker.memory = uint64_t(1) << 40;
    CHECK(session.ask(of_device(GET_DEVICE_MEMORY)) == reply(number(4 * MIB, 8) + number(uint64_t(2) << 40, 8)));
    session.worker.memory = MIB;
    CHECK(session.ask(of_device(GET_DEVICE_MEMORY)) == reply(number(MIB, 8) + number(2 * MIB, 8)));
}

void a_freed_buffer_is_unknown_and_its_room_is_back() {
    Session session(quota(2 * MIB));
    session.send(of_buffer(FREE_BUFFER, session.handle));
    CHECK(session.worker.buffers.empty());
    CHECK(session.ask(alloc(2 * MIB)) != reply(Bytes(16)));
    CHECK(session.refused(set(tensor(session.floats()), 0, Bytes(256))) == Refusal::buffer_unknown);
}

void a_second_free_is_refused() {
    Session session;
    session.send(of_buffer(FREE_BUFFER, session.handle));
    CHECK(session.refused(of_buffer(FREE_BUFFER, session.handle)) == Refusal::buffer_unknown);
}

void a_freed_handle_stays_unknown_when_the_worker_grants_the_same_pointer_again() {
    Session        session;
    const uint64_t real = session.real_handle();
    session.send(of_buffer(FREE_BUFFER, session.handle));
    const uint64_t next = load64(&session.ask(alloc(MIB))[8]);
    CHECK_EQ(session.real_handle(), real);
    CHECK(next != session.handle);
    CHECK(session.refused(clear(session.handle, 0)) == Refusal::buffer_unknown);
}

void the_client_s_clear_and_free_reach_the_worker_s_buffer() {
    Session        session;
    const uint64_t real = session.real_handle();
    session.send(clear(session.handle, 7));
    CHECK(session.worker.last().payload == number(real, 8) + Bytes{ 7 });
    session.send(of_buffer(FREE_BUFFER, session.handle));
    CHECK(session.worker.last().payload == number(real, 8));
    CHECK_EQ(session.complaint(), "");
}

void the_worker_s_own_numbers_are_unknown_to_the_client() {
    for (const uint8_t command : { BUFFER_GET_BASE, FREE_BUFFER }) {
        Session session;
        check::row = command_of(command).name;
        CHECK(session.refused(of_buffer(command, session.real_handle())) == Refusal::buffer_unknown);
        CHECK_REFUSED(of_buffer(command, 0), buffer_unknown);
        CHECK_REFUSED(of_buffer(command, 2), buffer_unknown);
    }
    CHECK_REFUSED(clear(0, 0), buffer_unknown);
}

void a_base_of_0_is_refused() {
    Guard guard{ Limits{} };
    Bytes greeting = hello();
    Bytes greeted  = reply(Bytes{ 7, 0, 0, 0 } + Bytes(CAPS_BYTES));
    Bytes request  = alloc(MIB);
    Bytes grant    = reply(number(0x5000, 8) + number(MIB, 8));
    Bytes base     = reply(number(0, 8));
    guard.from_client(greeting.data(), greeting.size());
    guard.from_worker(greeted.data(), greeted.size());
    guard.from_client(request.data(), request.size());
    CHECK(guard.from_worker(grant.data(), grant.size()).kind == Kind::pass);
    CHECK(guard.from_client(nullptr, 0).kind == Kind::emit);
    CHECK(guard.from_client(nullptr, 0).kind == Kind::wait);
    CHECK(guard.from_worker(base.data(), base.size()).kind == Kind::refuse);
    CHECK(guard.finding().refusal == Refusal::reply_invalid);
}

void two_buffers_keep_apart() {
    Session        session;
    const uint64_t other = load64(&session.ask(alloc(MIB))[8]);
    const uint64_t there = load64(&session.ask(of_buffer(BUFFER_GET_BASE, other))[8]);
    Wanted         floats = session.floats();
    floats.buffer         = other;
    floats.data = there;
    session.send(set(tensor(floats), 0, Bytes(256)));
    CHECK_EQ(session.complaint(), "");
    CHECK_EQ(load64(&session.worker.last().payload[TENSOR_BUFFER_OFFSET]), std::next(session.worker.buffers.begin())->first);
    floats.data = session.base;
    CHECK(session.refused(set(tensor(floats), 0, Bytes(256))) == Refusal::tensor_bounds);
}

}  // namespace

int main() {
    return check::run({
        TEST(a_fresh_buffer_that_shows_the_previous_session_s_bytes_is_cleared_before_the_client_s_next_byte),
        TEST(heap_addresses_that_would_leak_in_remote_ptr_and_base_are_virtual),
        TEST(the_size_is_the_worker_s),
        TEST(the_guard_answers_for_the_base_itself),
        TEST(a_base_is_known_also_to_a_client_that_never_asked),
        TEST(alloc_overcommit_is_answered_as_out_of_memory_and_the_session_goes_on),
        TEST(a_worker_without_memory_is_not_charged_and_not_asked_for_a_base),
        TEST(the_free_memory_told_is_what_the_quota_leaves),
        TEST(a_freed_buffer_is_unknown_and_its_room_is_back),
        TEST(a_second_free_is_refused),
        TEST(a_freed_handle_stays_unknown_when_the_worker_grants_the_same_pointer_again),
        TEST(the_client_s_clear_and_free_reach_the_worker_s_buffer),
        TEST(the_worker_s_own_numbers_are_unknown_to_the_client),
        TEST(a_base_of_0_is_refused),
        TEST(two_buffers_keep_apart),
    });
}
