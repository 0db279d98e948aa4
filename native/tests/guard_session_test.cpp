// A session's order: HELLO, known commands of known lengths, one reply at a time, and nothing from the worker that
// nobody asked for. What is refused has not reached the worker.
#include "guard_session.h"

namespace {

using namespace frames;

struct Length {
    uint8_t  command;
    uint64_t least;
    uint64_t most;
};

constexpr uint64_t GIB = uint64_t(1) << 30;

// From the packed structs of llama.cpp's ggml-rpc.cpp. The largest graph has 65,536 nodes and 131,072 tensors.
constexpr Length lengths[] = {
    { 0, 12, 12 },   { 1, 4, 4 },   { 2, 4, 4 },     { 3, 8, 8 },   { 4, 8, 8 },  { 5, 9, 9 },
    { 6, 305, 305 + 64 * GIB },     { 7, 312, 312 }, { 8, 312, 312 },             { 9, 592, 592 },
    { 10, 316, 39321612 },          { 11, 4, 4 },    { 12, 296, 296 },            { 13, 3260, 3260 },
    { 15, 0, 0 },    { 16, 4, 4 },  { 17, 313, 313 },
};

// A reply that the worker makes up, straight into the guard.
Refusal reply_of(const Bytes & request, Bytes reply_bytes) {
    Guard guard{ Limits{} };
    Bytes out = request;
    if (request[0] != HELLO) {
        Bytes greeting = hello();
        guard.from_client(greeting.data(), greeting.size());
        Bytes greeted = reply(Bytes{ 7, 0, 0, 0 } + Bytes(CAPS_BYTES));
        guard.from_worker(greeted.data(), greeted.size());
    }
    CHECK(guard.from_client(out.data(), out.size()).kind == Kind::pass);
    const Step step = guard.from_worker(reply_bytes.data(), reply_bytes.size());
    CHECK((step.kind == Kind::refuse) == bool(guard.finding()));
    return guard.finding().refusal;
}

void the_first_byte_must_be_hello_s() {
    for (int command = 0; command < 256; ++command) {
        Relay relay;
        relay.send({ static_cast<uint8_t>(command) });
        check::row = "command " + std::to_string(command);
        CHECK((relay.refusal() == Refusal::none) == (command == HELLO));
        CHECK(command == HELLO || relay.refusal() == Refusal::hello_invalid);
        CHECK(relay.to_worker.empty());
    }
}

void hello_has_24_bytes_exactly() {
    for (const uint64_t length : { uint64_t(0), uint64_t(23), uint64_t(25), uint64_t(24) << 8, GIB, ~uint64_t(0) }) {
        Relay relay;
        relay.send(header(HELLO, length));
        check::row = "length " + std::to_string(length);
        CHECK(relay.refusal() == Refusal::hello_invalid);
        CHECK(!relay.guard.greeted());
    }
}

void nothing_of_hello_is_forwarded_before_it_is_whole() {
    const Bytes whole = hello();
    for (size_t size = 0; size < whole.size(); ++size) {
        Relay relay;
        relay.send(Bytes(whole.begin(), whole.begin() + static_cast<long>(size)));
        CHECK(relay.to_worker.empty());
        CHECK(!relay.guard.greeted());
        CHECK_EQ(relay.guard.last_command(), -1);
    }
}

void capabilities_that_lead_around_the_tunnel_are_zeroed_both_ways() {
    Relay relay;
    relay.send(hello(0xaa));
    CHECK(relay.guard.greeted());
    CHECK(relay.to_worker == hello(0));
    CHECK(relay.to_client == reply(Bytes{ 7, 0, 0, 0 } + Bytes(CAPS_BYTES)));
}

void a_second_hello_is_refused_at_its_first_byte() {
    CHECK_REFUSED({ HELLO }, hello_invalid);
}

void an_unknown_command_is_refused_at_its_first_byte() {
    for (int command = 0; command < 256; ++command) {
        const Refusal expected = command == HELLO ? Refusal::hello_invalid : command > 17 ? Refusal::command_unknown : Refusal::none;
        Session       session;
        check::row = "command " + std::to_string(command);
        CHECK(session.refused({ static_cast<uint8_t>(command) }) == expected);
    }
}

void lengths_outside_the_table_are_refused_at_the_header() {
    for (const Length & row : lengths) {
        const auto refused = [&](uint64_t length) {
            check::row = std::string(command_of(row.command).name) + " of " + std::to_string(length);
            return Session().refused(header(row.command, length));
        };
        CHECK(refused(row.least) == Refusal::none);
        CHECK(refused(row.most) == Refusal::none);
        CHECK(refused(row.most + 1) == Refusal::length_invalid);
        CHECK(row.least == 0 || refused(row.least - 1) == Refusal::length_invalid);
        CHECK(refused(uint64_t(1) << 63) == Refusal::length_invalid);
        CHECK(refused(~uint64_t(0)) == Refusal::length_invalid);
    }
}

void a_length_of_2_to_63_in_set_and_graph_is_refused() {
    CHECK_REFUSED(header(SET_TENSOR, uint64_t(1) << 63), length_invalid);
    CHECK_REFUSED(header(GRAPH_COMPUTE, uint64_t(1) << 63), length_invalid);
}

void memory_is_not_filled_on_a_length_claim() {
    Session      session;
    const size_t before = session.to_worker.size();
    session.send(header(SET_TENSOR, 305 + 64 * GIB));
    CHECK(session.refusal() == Refusal::none);
    CHECK_EQ(session.to_worker.size(), before);
}

void a_device_beyond_the_limit_is_refused() {
    for (const uint8_t command : { GET_ALIGNMENT, GET_MAX_SIZE, GET_DEVICE_MEMORY, GRAPH_RECOMPUTE }) {
        check::row = command_of(command).name;
        CHECK_REFUSED(of_device(command, 16), device_unknown);
        CHECK_REFUSED(of_device(command, 0xffffffff), device_unknown);
    }
    CHECK_REFUSED(alloc(64, 16), device_unknown);
}

void devices_are_those_that_the_worker_has_once_it_said_so() {
    Session session;
    CHECK(session.ask(frame(DEVICE_COUNT, {})) == reply(number(2, 4)));
    CHECK(session.refused(of_device(GET_ALIGNMENT, 1)) == Refusal::none);
    CHECK(session.refused(of_device(GET_ALIGNMENT, 2)) == Refusal::device_unknown);
}

void more_devices_than_the_limit_are_not_told() {
    Limits limits;
    limits.devices = 1;
    Session session(limits);
    CHECK(session.ask(frame(DEVICE_COUNT, {})) == reply(number(1, 4)));
    CHECK(session.refused(of_device(GET_ALIGNMENT, 1)) == Refusal::device_unknown);
}

void a_client_waits_for_its_reply() {
    Guard guard{ Limits{} };
    Bytes greeting = hello();
    Bytes next     = of_device(GET_ALIGNMENT);
    CHECK(guard.from_client(greeting.data(), greeting.size()).kind == Kind::pass);
    CHECK(guard.worker_is_busy());
    CHECK(guard.from_client(next.data(), next.size()).kind == Kind::wait);
    Bytes answer = reply(Bytes{ 7, 0, 0, 0 } + Bytes(CAPS_BYTES));
    CHECK(guard.from_worker(answer.data(), answer.size()).kind == Kind::pass);
    CHECK(!guard.worker_is_busy());
    CHECK(guard.from_client(next.data(), next.size()).kind == Kind::pass);
}

void asked_without_bytes_there_is_nothing_to_do() {
    Guard guard{ Limits{} };
    CHECK(guard.from_client(nullptr, 0).kind == Kind::need_more);
    CHECK(guard.from_worker(nullptr, 0).kind == Kind::need_more);
}

void a_reply_before_any_request_is_refused() {
    Guard guard{ Limits{} };
    Bytes byte = { 0 };
    CHECK(guard.from_worker(byte.data(), 1).kind == Kind::refuse);
    CHECK(guard.finding().refusal == Refusal::reply_invalid);
}

void a_byte_behind_a_reply_is_refused() {
    Session session;
    session.worker.replies = { 0 };
    session.send({});
    CHECK(session.refusal() == Refusal::reply_invalid);
}

void a_reply_of_another_length_is_refused() {
    for (const uint64_t wrong : { uint64_t(0), uint64_t(7), uint64_t(9), uint64_t(1) << 63 }) {
        check::row = "length " + std::to_string(wrong);
        CHECK(reply_of(of_device(GET_ALIGNMENT), number(wrong, 8)) == Refusal::reply_invalid);
        CHECK(reply_of(alloc(64), number(wrong, 8)) == Refusal::reply_invalid);
        CHECK(reply_of(frame(DEVICE_COUNT, {}), number(wrong, 8)) == Refusal::reply_invalid);
    }
}

void another_protocol_version_is_refused() {
    CHECK(reply_of(hello(), reply(Bytes{ 7, 0, 0, 0 } + Bytes(24))) == Refusal::none);
    for (const Bytes & version : { Bytes{ 6, 0, 0, 0 }, Bytes{ 7, 1, 0, 0 }, Bytes{ 7, 0, 1, 0 }, Bytes{ 8, 0, 0, 0 } }) {
        CHECK(reply_of(hello(), reply(version + Bytes(24))) == Refusal::reply_invalid);
    }
}

void a_grant_that_makes_no_sense_is_refused() {
    CHECK(reply_of(alloc(64), reply(number(0x5000, 8) + number(64, 8))) == Refusal::none);
    CHECK(reply_of(alloc(64), reply(number(0x5000, 8) + number(63, 8))) == Refusal::reply_invalid);
    CHECK(reply_of(alloc(64), reply(number(0x5000, 8) + number(~uint64_t(0), 8))) == Refusal::reply_invalid);
    CHECK(reply_of(alloc(64), reply(number(0, 8) + number(64, 8))) == Refusal::reply_invalid);
}

void the_same_buffer_granted_twice_is_refused() {
    Session session;
    Bytes   request = alloc(64);
    Bytes   grant   = reply(number(session.real_handle(), 8) + number(64, 8));
    session.guard.from_client(request.data(), request.size());
    CHECK(session.guard.from_worker(grant.data(), grant.size()).kind == Kind::refuse);
    CHECK(session.refusal() == Refusal::reply_invalid);
}

void a_refused_session_stays_refused() {
    Session session;
    session.send({ 0xff });
    Bytes good = of_device(GET_ALIGNMENT);
    CHECK(session.guard.from_client(good.data(), good.size()).kind == Kind::refuse);
    CHECK(session.guard.from_worker(good.data(), good.size()).kind == Kind::refuse);
    CHECK_EQ(session.guard.finding().command, 0xff);
    CHECK(!session.guard.finding().detail.empty());
}

void a_finding_says_the_command() {
    Session session;
    session.send(of_device(GET_MAX_SIZE, 99));
    CHECK_EQ(session.guard.finding().command, int(GET_MAX_SIZE));
    CHECK_EQ(session.guard.last_command(), int(GET_MAX_SIZE));
}

}  // namespace

int main() {
    return check::run({
        TEST(the_first_byte_must_be_hello_s),
        TEST(hello_has_24_bytes_exactly),
        TEST(nothing_of_hello_is_forwarded_before_it_is_whole),
        TEST(capabilities_that_lead_around_the_tunnel_are_zeroed_both_ways),
        TEST(a_second_hello_is_refused_at_its_first_byte),
        TEST(an_unknown_command_is_refused_at_its_first_byte),
        TEST(lengths_outside_the_table_are_refused_at_the_header),
        TEST(a_length_of_2_to_63_in_set_and_graph_is_refused),
        TEST(memory_is_not_filled_on_a_length_claim),
        TEST(a_device_beyond_the_limit_is_refused),
        TEST(devices_are_those_that_the_worker_has_once_it_said_so),
        TEST(more_devices_than_the_limit_are_not_told),
        TEST(a_client_waits_for_its_reply),
        TEST(asked_without_bytes_there_is_nothing_to_do),
        TEST(a_reply_before_any_request_is_refused),
        TEST(a_byte_behind_a_reply_is_refused),
        TEST(a_reply_of_another_length_is_refused),
        TEST(another_protocol_version_is_refused),
        TEST(a_grant_that_makes_no_sense_is_refused),
        TEST(the_same_buffer_granted_twice_is_refused),
        TEST(a_refused_session_stays_refused),
        TEST(a_finding_says_the_command),
    });
}
