// Looks for bytes that get a guard to forward what a worker would stumble over, to leak one of its numbers, to read beyond
// what it was given, or to go on without end.
#include <random>

#include "guard_llama_graph.h"
#include "guard_program.h"
#include "guard_session.h"
#include "input.h"

namespace {

using namespace frames;
using fuzz::expect;
using fuzz::Input;

Limits limits(uint64_t memory_bytes = 1 << 20) {
    Limits limits;
    limits.memory_bytes = memory_bytes;
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

// Forward or back, a little or past the end of a GiB.
uint64_t distance(Input & input) {
    const uint64_t any = input.below(1 << 16);
    return any % 2 == 0 ? any / 128 - 256 : (any - 32768) << 15;
}

// A llama's graph with some fields of its tensors changed.
void run_graph(Input & input) {
    struct Field {
        size_t   offset;
        size_t   bytes;
        uint32_t count;  // so many of them, side by side
    };
    constexpr Field fields[] = { { 0, 8, 1 }, { 8, 4, 1 }, { 12, 8, 1 }, { 20, 4, 4 }, { 36, 4, 4 }, { 52, 4, 1 }, { 56, 4, 16 },
                                 { 124, 8, 10 }, { 204, 8, 1 }, { 212, 8, 1 }, { 220, 8, 1 } };
    Relay      relay(limits(uint64_t(4) << 30));
    relay.send(hello());
    const LlamaGraph llama(relay, 1);
    Bytes      bytes   = llama.bytes();
    const size_t first = bytes.size() - TENSOR_BYTES * llama.tensors.size();
    const auto   any   = [&] { return first + TENSOR_BYTES * input.below(static_cast<uint32_t>(llama.tensors.size())); };
    for (uint32_t changes = input.below(6); changes > 0; --changes) {
        const Field &  field  = fields[input.below(std::size(fields))];
        const size_t   offset = field.offset + field.bytes * input.below(field.count);
        uint8_t * const to    = &bytes[any() + offset];
        switch (input.below(4)) {
            case 0: store(to, input.odd_number(), field.bytes); break;
            case 1: store(to, input.below(128), field.bytes); break;
            case 2: store(to, load64(to) + distance(input), field.bytes); break;
            default: std::copy_n(&bytes[any() + (input.below(2) == 0 ? offset : 0)], field.bytes, to); break;
        }
    }
    if (input.below(4) == 0) {
        store64(&bytes[REQUEST_HEADER_BYTES + 8 + 8 * input.below(static_cast<uint32_t>(llama.nodes.size()))], llama.nodes[input.below(8)]);
    }
    relay.send(bytes);
    expect_sound(relay);
}

// One node of any op, with sources of any shape.
void run_node(Input & input) {
    constexpr uint32_t sizes[] = { 0, 1, 2, 3, 4, 5, 8, 16, 31, 32, 64, 128, 256, 512, 0x7fffffff, 0xffffffff };
    Session            session(limits(uint64_t(1) << 30));
    const auto         tensor_of = [&](uint64_t id) {
        Wanted wanted = session.floats(Session::BUFFER_BYTES / 64 * input.below(64));
        wanted.id     = id;
        wanted.type   = input.below(2) == 0 ? 0 : input.below(TYPE_COUNT);
        for (uint32_t & ne : wanted.ne) {
            ne = sizes[input.below(input.below(8) == 0 ? std::size(sizes) : 8)];
        }
        wanted.ne[0] *= input.below(2) == 0 ? 1 : type_of(wanted.type).block;
        for (uint32_t twisted = input.below(8); twisted > 5; --twisted) {
            const Tensor read = read_tensor(tensor(wanted).data());
            wanted.nb         = read.nb;
            std::swap(wanted.nb[input.below(4)], wanted.nb[input.below(4)]);
            wanted.nb[input.below(4)] += 4 * input.below(16);
        }
        return wanted;
    };
    std::vector<Bytes> tensors;
    Wanted             node = tensor_of(1);
    node.op                 = input.below(OP_COUNT);
    node.flags              = 16;
    for (uint32_t sources = input.below(7), i = 0; i < sources; ++i) {
        node.src.push_back(2 + i);
        // Many ops want sources of one shape.
        Wanted source = input.below(2) == 0 ? node : tensor_of(2 + i);
        source.id     = 2 + i;
        source.op     = 0;
        source.src.clear();
        tensors.push_back(tensor(source));
    }
    for (uint32_t i = input.below(8); i > 0; --i) {
        node.params.push_back(static_cast<int32_t>(input.below(4) == 0 ? input.odd_number() : input.below(64)));
    }
    tensors.push_back(tensor(node));
    session.send(input.below(8) == 0 ? alloc_size(tensors.back(), { tensors.begin(), tensors.end() - 1 }) : graph({ node.id }, tensors));
    expect_sound(session);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t * data, size_t size) {
    Input input(data, size);
    switch (input.below(8)) {
        case 0: run_client(input); break;
        case 1: run_worker(input); break;
        case 2: run_graph(input); break;
        case 3:
        case 4: run_node(input); break;
        default: run_program(input); break;
    }
    return 0;
}
