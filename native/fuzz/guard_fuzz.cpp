// Looks for bytes that get a guard to forward what a worker would stumble over, to leak one of its numbers, to read beyond
// what it was given, or to go on without end.
//
// With clang: -fsanitize=fuzzer,address,undefined -DRPCMESH_LIBFUZZER. With any compiler: a program of its own that runs
// files (guard_fuzz FILE...) or made-up inputs (guard_fuzz -runs=100000 -seed=1).
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <random>

#include "guard_program.h"

namespace {

using namespace frames;

// Numbers out of a fuzzer's bytes; zeros when they are used up.
class Input {
public:
    Input(const uint8_t * data, size_t size) : data_(data), left_(size) {}

    uint32_t below(uint32_t limit) {
        uint32_t value = 0;
        for (uint32_t span = limit - 1; span > 0; span >>= 8) {
            value = value << 8 | byte();
        }
        return value % limit;
    }

    Bytes rest() { return Bytes(data_, data_ + left_); }

private:
    uint8_t byte() {
        if (left_ == 0) {
            return 0;
        }
        --left_;
        return *data_++;
    }

    const uint8_t * data_;
    size_t          left_;
};

void expect(bool holds, const char * what, const std::string & detail = "") {
    if (!holds) {
        std::fprintf(stderr, "guard_fuzz: %s: %s\n", what, detail.c_str());
        std::abort();
    }
}

Limits limits() {
    Limits limits;
    limits.memory_bytes = 1 << 20;
    limits.read_bytes   = 1 << 16;
    limits.devices      = FakeWorker::DEVICES;
    return limits;
}

void expect_sound(const Relay & relay) {
    expect(relay.sound(), "a worker would stumble", relay.complaint());
    expect(!leaks(relay), "a worker's number reached the client");
    expect(bool(relay.guard.finding()) || relay.held() < 4096, "the client's bytes pile up");
}

// A session that is mostly right, and once more cut otherwise.
void run_program(Input & input) {
    const uint32_t spoilt = 100 * input.below(6);
    Program        program([&](uint32_t below) { return input.below(below); }, spoilt);
    Relay          whole(limits());
    program.run(whole, 4 + input.below(40));
    expect_sound(whole);
    expect(program.lost_count || whole.worker.between_frames(), "part of a request was forwarded");
    std::minstd_rand random(static_cast<uint32_t>(program.sent.size()));
    Relay            pieces(limits(), [&](size_t) { return 1 + random() % 600; });
    pieces.send(program.sent);
    expect_sound(pieces);
    expect(pieces.to_worker == whole.to_worker && pieces.to_client == whole.to_client, "cuts change what is forwarded");
    expect(pieces.refusal() == whole.refusal(), "cuts change the verdict");
}

// A client that sends anything, to a session that has a buffer and a graph.
void run_client(Input & input) {
    Relay relay(limits(), [&](size_t waiting) { return waiting; });
    relay.send(hello() + alloc(8192));
    relay.send(sum_graph(1, (uint64_t(1) << 40) + 0x40));
    expect(!relay.guard.finding(), "the first frames were refused", relay.guard.finding().detail);
    relay.send(input.rest());
    expect_sound(relay);
}

// A worker that replies anything.
void run_worker(Input & input) {
    constexpr uint8_t commands[] = { ALLOC_BUFFER, DEVICE_COUNT, GET_DEVICE_MEMORY, HELLO };
    const uint8_t     command    = commands[input.below(4)];
    Guard             guard(limits());
    Bytes             request = hello();
    Bytes             greeted = reply(Bytes{ 7, 0, 0, 0 } + Bytes(CAPS_BYTES));
    guard.from_client(request.data(), request.size());
    if (command != HELLO) {
        guard.from_worker(greeted.data(), greeted.size());
        request = command == ALLOC_BUFFER ? alloc(8192) : command == DEVICE_COUNT ? frame(DEVICE_COUNT, {}) : of_device(GET_DEVICE_MEMORY);
        guard.from_client(request.data(), request.size());
    }
    Bytes  replies = input.rest();
    size_t asked   = 0;
    for (size_t at = 0; at < replies.size() || asked == 0;) {
        const size_t here = std::min<size_t>(replies.size() - at, 64);
        const Step   step = guard.from_worker(replies.data() + at, here);
        guard.from_client(nullptr, 0);
        expect(step.size <= here, "a step larger than what there was");
        expect(++asked < 4 * replies.size() + 16, "no end");
        if (step.kind != Kind::pass && step.kind != Kind::drop) {
            break;
        }
        at += step.size;
    }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t * data, size_t size) {
    Input input(data, size);
    switch (input.below(4)) {
        case 0: run_client(input); break;
        case 1: run_worker(input); break;
        default: run_program(input); break;
    }
    return 0;
}

#ifndef RPCMESH_LIBFUZZER

int main(int count, char ** arguments) {
    unsigned long runs = 0;
    unsigned long seed = 1;
    for (int i = 1; i < count; ++i) {
        if (std::strncmp(arguments[i], "-runs=", 6) == 0) {
            runs = std::strtoul(arguments[i] + 6, nullptr, 10);
        } else if (std::strncmp(arguments[i], "-seed=", 6) == 0) {
            seed = std::strtoul(arguments[i] + 6, nullptr, 10);
        } else {
            std::ifstream file(arguments[i], std::ios::binary);
            const Bytes   bytes(std::istreambuf_iterator<char>(file), {});
            LLVMFuzzerTestOneInput(bytes.data(), bytes.size());
        }
    }
    std::mt19937_64 random(seed);
    for (unsigned long run = 0; run < runs; ++run) {
        Bytes bytes(1 + random() % 1500);
        for (uint8_t & byte : bytes) {
            byte = static_cast<uint8_t>(random());
        }
        // So that a crash leaves the input behind.
        if (std::FILE * last = std::getenv("GUARD_FUZZ_LAST") == nullptr ? nullptr : std::fopen(std::getenv("GUARD_FUZZ_LAST"), "wb")) {
            std::fwrite(bytes.data(), 1, bytes.size(), last);
            std::fclose(last);
        }
        LLVMFuzzerTestOneInput(bytes.data(), bytes.size());
    }
    std::printf("%lu runs from seed %lu\n", runs, seed);
    return 0;
}

#endif
