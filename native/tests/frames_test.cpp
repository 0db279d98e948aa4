// However the bytes of a conversation arrive, the guard says the same and forwards the same.
#include "rpc_frames.h"

#include <cstring>
#include <random>
#include <vector>

#include "check.h"

namespace {

using rpcmesh::ReplyCaps;
using rpcmesh::RequestFrames;
using Bytes   = std::vector<uint8_t>;
using Verdict = RequestFrames::Verdict;

constexpr uint8_t  HELLO         = 14;
constexpr uint8_t  GRAPH_COMPUTE = 10;
constexpr uint64_t GIB           = uint64_t{ 1 } << 30;

// Taken from the packed structs of llama.cpp's ggml-rpc.cpp, protocol 7.0.0; rpc_tensor has 296 bytes there.
struct Row {
    uint8_t  command;
    uint64_t least;
    uint64_t most;
};

constexpr Row rows[] = {
    { 0, 12, 12 },                // u32 device, u64 size
    { 1, 4, 4 },                  // u32 device
    { 2, 4, 4 },                  // u32 device
    { 3, 8, 8 },                  // u64 buffer
    { 4, 8, 8 },                  // u64 buffer
    { 5, 9, 9 },                  // u64 buffer, u8 value
    { 6, 305, 64 * GIB + 305 },   // tensor, u64 offset, one byte of weights or more
    { 7, 312, 312 },              // tensor, u64 offset, u64 hash
    { 8, 312, 312 },              // tensor, u64 offset, u64 size
    { 9, 592, 592 },              // two tensors
    { 10, 12, GIB / 4 },          // u32 device, two counts and what they count
    { 11, 4, 4 },                 // u32 device
    { 12, 296, 296 },             // tensor
    { 13, 3260, 3260 },           // u32 device, tensor, its ten sources
    { 15, 0, 0 },
    { 16, 4, 4 },                 // u32 device
    { 17, 313, 313 },             // tensor, u64 offset, u64 size, u8 value
};

// With Verdict::ok and more to come, `forwarded` lacks what is held back.
struct Outcome {
    Verdict verdict = Verdict::ok;
    Bytes   forwarded;
    bool    greeted      = false;
    int     last_command = -1;
    size_t  held_most    = 0;

    bool operator==(const Outcome & other) const {
        return verdict == other.verdict && forwarded == other.forwarded && greeted == other.greeted && last_command == other.last_command;
    }
};

void append(Bytes & to, const Bytes & what) {
    to.insert(to.end(), what.begin(), what.end());
}

Bytes header(uint8_t command, uint64_t length) {
    Bytes bytes = { command };
    for (int i = 0; i < 8; ++i) {
        bytes.push_back(static_cast<uint8_t>(length >> (8 * i)));
    }
    return bytes;
}

Bytes frame(uint8_t command, uint64_t length, uint8_t fill) {
    Bytes bytes = header(command, length);
    bytes.resize(bytes.size() + length, fill);
    return bytes;
}

Bytes hello(uint8_t caps = 0xaa) {
    return frame(HELLO, 24, caps);
}

// HELLO and one request of each kind. The payloads' bytes are those of HELLO's command, so a lost count would show.
Bytes conversation() {
    Bytes bytes = hello();
    for (const Row & row : rows) {
        append(bytes, frame(row.command, row.least, HELLO));
    }
    append(bytes, frame(GRAPH_COMPUTE, 700, 0xff));
    return bytes;
}

// As a relay does: what may pass is forwarded, the rest is presented again with the next chunk behind it.
Outcome feed(const Bytes & stream, const std::vector<size_t> & cuts) {
    RequestFrames frames;
    Outcome       outcome;
    Bytes         held;
    size_t        from = 0;
    for (size_t i = 0; i <= cuts.size() && outcome.verdict == Verdict::ok; ++i) {
        const size_t to = i < cuts.size() ? cuts[i] : stream.size();
        held.insert(held.end(), stream.begin() + static_cast<long>(from), stream.begin() + static_cast<long>(to));
        from            = to;
        size_t passed   = 0;
        outcome.verdict = frames.inspect(held.data(), held.size(), passed);
        outcome.forwarded.insert(outcome.forwarded.end(), held.begin(), held.begin() + static_cast<long>(passed));
        held.erase(held.begin(), held.begin() + static_cast<long>(passed));
        outcome.held_most = std::max(outcome.held_most, outcome.verdict == Verdict::ok ? held.size() : 0);
    }
    outcome.greeted      = frames.greeted();
    outcome.last_command = frames.last_command();
    return outcome;
}

std::vector<size_t> byte_by_byte(const Bytes & stream) {
    std::vector<size_t> cuts;
    for (size_t at = 1; at < stream.size(); ++at) {
        cuts.push_back(at);
    }
    return cuts;
}

Verdict verdict_of(const Bytes & stream) {
    return feed(stream, {}).verdict;
}

Bytes after_hello(const Bytes & more) {
    Bytes bytes = hello();
    append(bytes, more);
    return bytes;
}

void a_whole_conversation_passes_unchanged_but_for_hello_s_caps() {
    const Bytes   stream   = conversation();
    Bytes         expected = stream;
    std::memset(expected.data() + 9, 0, 24);
    const Outcome outcome = feed(stream, {});
    CHECK(outcome.verdict == Verdict::ok);
    CHECK(outcome.forwarded == expected);
    CHECK(outcome.greeted);
    CHECK_EQ(outcome.last_command, GRAPH_COMPUTE);
}

void every_split_into_two_gives_the_same() {
    const Bytes   stream = conversation();
    const Outcome whole  = feed(stream, {});
    for (size_t at = 0; at <= stream.size(); ++at) {
        check::row            = "a cut at " + std::to_string(at);
        const Outcome outcome = feed(stream, { at });
        CHECK(outcome == whole);
        CHECK(outcome.held_most < rpcmesh::HELLO_FRAME_BYTES);
    }
}

void every_split_of_hello_and_the_next_frame_into_three_gives_the_same() {
    const Bytes   stream = after_hello(frame(0, 12, 0xff));
    const Outcome whole  = feed(stream, {});
    for (size_t first = 0; first <= stream.size(); ++first) {
        for (size_t second = first; second <= stream.size(); ++second) {
            check::row = "cuts at " + std::to_string(first) + " and " + std::to_string(second);
            CHECK(feed(stream, { first, second }) == whole);
        }
    }
}

void byte_by_byte_gives_the_same() {
    const Bytes   stream  = conversation();
    const Outcome outcome = feed(stream, byte_by_byte(stream));
    CHECK(outcome == feed(stream, {}));
    CHECK(outcome.held_most < rpcmesh::HELLO_FRAME_BYTES);
}

void spoilt_conversations_give_the_same_however_they_are_cut() {
    std::mt19937 random(7);
    const Bytes  good = conversation();
    for (int round = 0; round < 2000; ++round) {
        Bytes stream = good;
        for (int spoilt = round % 3; spoilt >= 0; --spoilt) {
            stream[random() % std::min<size_t>(stream.size(), 1 << (4 + random() % 9))] = static_cast<uint8_t>(random());
        }
        std::vector<size_t> cuts;
        for (size_t at = random() % 900; at < stream.size(); at += 1 + random() % 900) {
            cuts.push_back(at);
        }
        check::row = "round " + std::to_string(round);
        CHECK(feed(stream, cuts) == feed(stream, {}));
    }
}

void nothing_of_hello_is_forwarded_before_it_is_whole() {
    const Bytes stream = hello();
    for (size_t size = 0; size < stream.size(); ++size) {
        const Outcome outcome = feed(Bytes(stream.begin(), stream.begin() + static_cast<long>(size)), {});
        check::row            = std::to_string(size) + " bytes";
        CHECK(outcome.verdict == Verdict::ok);
        CHECK(outcome.forwarded.empty());
        CHECK(!outcome.greeted);
        CHECK_EQ(outcome.last_command, -1);
    }
}

void caps_are_zeroed_in_place() {
    Bytes         stream = after_hello(frame(0, 12, 0xff));
    const Bytes   before = stream;
    RequestFrames frames;
    size_t        passed = 0;
    CHECK(frames.inspect(stream.data(), stream.size(), passed) == Verdict::ok);
    for (size_t at = 0; at < stream.size(); ++at) {
        check::row = "byte " + std::to_string(at);
        CHECK_EQ(int{ stream[at] }, at >= 9 && at < 33 ? 0 : int{ before[at] });
    }
}

void the_first_byte_must_be_hello_s() {
    for (int command = 0; command < 256; ++command) {
        check::row = "command " + std::to_string(command);
        CHECK((verdict_of({ static_cast<uint8_t>(command) }) == Verdict::ok) == (command == HELLO));
        CHECK(command == HELLO || verdict_of({ static_cast<uint8_t>(command) }) == Verdict::hello_invalid);
    }
}

void hello_has_24_bytes_exactly() {
    for (const uint64_t length : { uint64_t{ 0 }, uint64_t{ 23 }, uint64_t{ 25 }, uint64_t{ 24 } << 8, GIB, ~uint64_t{ 0 } }) {
        check::row            = "length " + std::to_string(length);
        const Outcome outcome = feed(header(HELLO, length), {});
        CHECK(outcome.verdict == Verdict::hello_invalid);
        CHECK(!outcome.greeted);
    }
    CHECK(verdict_of(header(HELLO, 24)) == Verdict::ok);
}

void a_second_hello_is_refused_at_its_first_byte() {
    const Outcome outcome = feed(after_hello({ HELLO }), {});
    CHECK(outcome.verdict == Verdict::frame_invalid);
    CHECK_EQ(outcome.forwarded.size(), rpcmesh::HELLO_FRAME_BYTES);
}

void an_unknown_command_is_refused_at_its_first_byte() {
    for (int command = 0; command < 256; ++command) {
        const bool known = command <= 17 && command != HELLO;
        check::row       = "command " + std::to_string(command);
        CHECK(verdict_of(after_hello({ static_cast<uint8_t>(command) })) == (known ? Verdict::ok : Verdict::frame_invalid));
    }
}

void lengths_are_held_to_their_bounds() {
    for (const Row & row : rows) {
        const auto verdict = [&](uint64_t length) {
            check::row = "command " + std::to_string(row.command) + " length " + std::to_string(length);
            return verdict_of(after_hello(header(row.command, length)));
        };
        CHECK(row.least == 0 || verdict(row.least - 1) == Verdict::frame_invalid);
        CHECK(verdict(row.least) == Verdict::ok);
        CHECK(verdict(row.most) == Verdict::ok);
        CHECK(verdict(row.most + 1) == Verdict::frame_invalid);
        CHECK(verdict(uint64_t{ 1 } << 63) == Verdict::frame_invalid);
        CHECK(verdict(~uint64_t{ 0 }) == Verdict::frame_invalid);
    }
}

// The largest frames are never held in memory: the same chunk is presented again and again.
void the_end_of_the_largest_payload_is_found_to_the_byte() {
    Bytes chunk(1 << 20, 0xff);
    for (const Row & row : rows) {
        check::row = "command " + std::to_string(row.command);
        RequestFrames frames;
        size_t        passed = 0;
        Bytes         begin  = after_hello(header(row.command, row.most));
        CHECK(frames.inspect(begin.data(), begin.size(), passed) == Verdict::ok);
        for (uint64_t left = row.most; left > 0; left -= passed) {
            const size_t size = static_cast<size_t>(std::min<uint64_t>(left, chunk.size()));
            if (frames.inspect(chunk.data(), size, passed) != Verdict::ok || passed != size) {
                CHECK(!"a byte of the payload was taken for a command");
                break;
            }
        }
        CHECK(frames.inspect(chunk.data(), 1, passed) == Verdict::frame_invalid);
        CHECK_EQ(passed, size_t{ 0 });
    }
}

void the_reply_to_hello_loses_its_caps_however_it_is_cut() {
    const Bytes reply(100, 0xff);
    Bytes       expected = reply;
    std::memset(expected.data() + 12, 0, 24);
    for (size_t first = 0; first <= reply.size(); ++first) {
        for (size_t second = first; second <= reply.size(); ++second) {
            Bytes     seen = reply;
            ReplyCaps caps;
            caps.zero(seen.data(), first);
            caps.zero(seen.data() + first, second - first);
            caps.zero(seen.data() + second, seen.size() - second);
            check::row = "cuts at " + std::to_string(first) + " and " + std::to_string(second);
            CHECK(seen == expected);
        }
    }
}

void later_replies_are_left_alone() {
    ReplyCaps caps;
    Bytes     first(36, 0xff);
    caps.zero(first.data(), first.size());
    Bytes later(64, 0xff);
    caps.zero(later.data(), later.size());
    CHECK(later == Bytes(64, 0xff));
}

}  // namespace

int main() {
    return check::run({
        TEST(a_whole_conversation_passes_unchanged_but_for_hello_s_caps),
        TEST(every_split_into_two_gives_the_same),
        TEST(every_split_of_hello_and_the_next_frame_into_three_gives_the_same),
        TEST(byte_by_byte_gives_the_same),
        TEST(spoilt_conversations_give_the_same_however_they_are_cut),
        TEST(nothing_of_hello_is_forwarded_before_it_is_whole),
        TEST(caps_are_zeroed_in_place),
        TEST(the_first_byte_must_be_hello_s),
        TEST(hello_has_24_bytes_exactly),
        TEST(a_second_hello_is_refused_at_its_first_byte),
        TEST(an_unknown_command_is_refused_at_its_first_byte),
        TEST(lengths_are_held_to_their_bounds),
        TEST(the_end_of_the_largest_payload_is_found_to_the_byte),
        TEST(the_reply_to_hello_loses_its_caps_however_it_is_cut),
        TEST(later_replies_are_left_alone),
    });
}
