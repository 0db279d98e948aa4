// However the bytes of both directions arrive, the guard forwards the same, answers the same and refuses the same; and what
// it forwards never makes a worker stumble.
#include <random>
#include <utility>

#include "guard_program.h"

namespace {

using namespace frames;

struct Outcome {
    Bytes   to_worker;
    Bytes   to_client;
    Refusal refusal;
    int     refused_command;
    int     last_command;

    bool operator==(const Outcome & other) const {
        return to_worker == other.to_worker && to_client == other.to_client && refusal == other.refusal &&
               refused_command == other.refused_command && last_command == other.last_command;
    }
};

Limits small_quota() {
    Limits limits;
    limits.memory_bytes = 1 << 20;
    limits.read_bytes   = 1 << 19;
    limits.devices      = FakeWorker::DEVICES;
    return limits;
}

Outcome outcome_of(const Relay & relay) {
    CHECK_EQ(relay.complaint(), "");
    CHECK(!leaks(relay));
    return { relay.to_worker, relay.to_client, relay.refusal(), relay.guard.finding().command, relay.guard.last_command() };
}

Outcome feed(const Bytes & sent, Relay::Cut cut) {
    Relay relay(small_quota(), std::move(cut));
    relay.send(sent);
    return outcome_of(relay);
}

Chance chance_of(std::mt19937 & random) {
    return [&random](uint32_t below) { return static_cast<uint32_t>(random() % below); };
}

size_t one_byte(size_t) {
    return 1;
}

void sound_sessions_pass_whole() {
    for (uint32_t seed = 0; seed < 150; ++seed) {
        check::row = "seed " + std::to_string(seed);
        std::mt19937 random(seed);
        Program      program(chance_of(random), 0);
        Relay        relay(small_quota());
        program.run(relay, 60);
        CHECK_EQ(std::string(name_of(relay.refusal())), "none");
        CHECK_EQ(relay.guard.finding().detail, "");
        CHECK(relay.worker.between_frames());
        CHECK_EQ(relay.held(), size_t(0));
        outcome_of(relay);
    }
}

void sound_sessions_give_the_same_however_they_are_cut() {
    for (uint32_t seed = 0; seed < 60; ++seed) {
        check::row = "seed " + std::to_string(seed);
        std::mt19937 random(seed);
        Program      program(chance_of(random), 0);
        Relay        relay(small_quota());
        program.run(relay, 40);
        const Outcome whole = outcome_of(relay);
        CHECK(feed(program.sent, all_at_once) == whole);
        CHECK(feed(program.sent, [&](size_t) { return 1 + random() % 700; }) == whole);
        CHECK(feed(program.sent, [&](size_t) { return 1 + random() % 12; }) == whole);
    }
}

void byte_by_byte_gives_the_same() {
    for (uint32_t seed = 1000; seed < 1012; ++seed) {
        check::row = "seed " + std::to_string(seed);
        std::mt19937 random(seed);
        Program      program(chance_of(random), 10);
        Relay        relay(small_quota());
        program.run(relay, 25);
        CHECK(feed(program.sent, one_byte) == outcome_of(relay));
    }
}

void spoilt_sessions_give_the_same_however_they_are_cut() {
    size_t refused = 0;
    for (uint32_t seed = 0; seed < 1500; ++seed) {
        check::row = "seed " + std::to_string(seed);
        std::mt19937 random(seed);
        Program      program(chance_of(random), 150);
        Relay        relay(small_quota());
        program.run(relay, 30);
        const Outcome whole = outcome_of(relay);
        refused += whole.refusal != Refusal::none ? 1 : 0;
        CHECK(relay.worker.between_frames() || program.lost_count);
        CHECK(feed(program.sent, [&](size_t) { return 1 + random() % 900; }) == whole);
    }
    CHECK(refused > 500);
    CHECK(refused < 1500);
}

void every_split_into_two_of_a_short_session_gives_the_same() {
    std::mt19937 random(5);
    Program      program(chance_of(random), 0);
    Relay        relay(small_quota());
    program.run(relay, 8);
    const Outcome whole = outcome_of(relay);
    for (size_t at = 1; at < program.sent.size(); ++at) {
        check::row = "a cut at " + std::to_string(at);
        bool first = true;
        CHECK(feed(program.sent, [&](size_t waiting) { return std::exchange(first, false) ? at : waiting; }) == whole);
    }
}

void a_client_s_bytes_up_to_any_point_forward_only_whole_requests_and_set_s_data() {
    std::mt19937 random(9);
    Program      program(chance_of(random), 0);
    Relay        whole(small_quota());
    program.run(whole, 12);
    for (size_t size = 0; size <= program.sent.size(); size += 1 + random() % 5) {
        Relay relay(small_quota());
        relay.send(Bytes(program.sent.begin(), program.sent.begin() + static_cast<long>(size)));
        check::row = std::to_string(size) + " bytes";
        CHECK_EQ(relay.complaint(), "");
        CHECK(relay.worker.between_frames() || relay.worker.last().command == SET_TENSOR);
        CHECK(relay.held() < 4096);
    }
}

}  // namespace

int main() {
    return check::run({
        TEST(sound_sessions_pass_whole),
        TEST(sound_sessions_give_the_same_however_they_are_cut),
        TEST(byte_by_byte_gives_the_same),
        TEST(spoilt_sessions_give_the_same_however_they_are_cut),
        TEST(every_split_into_two_of_a_short_session_gives_the_same),
        TEST(a_client_s_bytes_up_to_any_point_forward_only_whole_requests_and_set_s_data),
    });
}
