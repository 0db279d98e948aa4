// What the guard alone takes of a processor, a line a figure: a name, a number, a unit. Figures, not a test. Measured in the
// process's own time, as other programs' work says nothing about the guard's.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <functional>

#include "guard_llama_graph.h"

namespace {

using namespace frames;

// What the pump shows at once.
constexpr size_t   CHUNK  = 256 * 1024;
constexpr uint64_t GIB    = uint64_t(1) << 30;
constexpr int      ROUNDS = 21;
constexpr uint32_t LAYERS = 40;

// Seconds of one of `times` calls: the median of ROUNDS.
double seconds_of(int times, const std::function<void()> & call) {
    std::vector<double> taken;
    for (int round = 0; round <= ROUNDS; ++round) {
        const std::clock_t begin = std::clock();
        for (int i = 0; i < times; ++i) {
            call();
        }
        taken.push_back(double(std::clock() - begin) / CLOCKS_PER_SEC / times);
    }
    taken.erase(taken.begin());  // fresh pages
    std::nth_element(taken.begin(), taken.begin() + ROUNDS / 2, taken.end());
    return taken[ROUNDS / 2];
}

// Shows the guard all of `bytes` and throws away what it says, as a pump without sockets would.
void relay(Guard & guard, Bytes & bytes) {
    for (size_t at = 0; at < bytes.size();) {
        const Step step = guard.from_client(bytes.data() + at, std::min(bytes.size() - at, CHUNK));
        if (step.kind == Kind::refuse || step.kind == Kind::wait) {
            std::fprintf(stderr, "refused: %s\n", guard.finding().detail.c_str());
            std::exit(1);
        }
        at += step.kind == Kind::pass || step.kind == Kind::drop ? step.size : 0;
    }
}

void reply_to(Guard & guard, const Bytes & reply) {
    Bytes bytes = reply;
    for (size_t at = 0; at < bytes.size();) {
        at += guard.from_worker(bytes.data() + at, bytes.size() - at).size;
    }
}

struct Greeted : Relay {
    Greeted() {
        keep_to_worker = false;
        send(hello());
    }
};

// Collected in the pieces that the pump shows, checked, rewritten.
void graph_check() {
    Greeted          session;
    const LlamaGraph llama(session, LAYERS);
    Bytes            bytes  = llama.bytes();
    const Bytes      counts = reply(number(FakeWorker::DEVICES, 4));
    const double     taken  = seconds_of(50, [&] {
        relay(session.guard, bytes);
        reply_to(session.guard, counts);
    });
    std::printf("graph_nodes %zu nodes\n", llama.nodes.size());
    std::printf("graph_tensors %zu tensors\n", llama.tensors.size());
    std::printf("graph_check %.1f us\n", taken * 1e6);
}

// Frames of SET_TENSOR as long as what the pump shows, heads included. Their data passes in place and the guard never looks
// at it, so this says what the heads cost.
void payloads() {
    Greeted        session;
    const uint64_t handle = load64(&session.ask(alloc(GIB))[8]);
    Wanted         wanted;
    wanted.buffer = handle;
    wanted.data   = load64(&session.ask(of_buffer(BUFFER_GET_BASE, handle))[8]);
    wanted.ne     = { { 1024, 64, 1, 1 } };
    const Bytes  frame = set(tensor(wanted), 0, Bytes(256 * 1024));
    Bytes        shown = frame;
    const double taken = seconds_of(1000, [&] {
        std::copy(frame.begin(), frame.begin() + REQUEST_HEADER_BYTES + SET_HEAD_BYTES, shown.begin());
        relay(session.guard, shown);
    });
    std::printf("payloads %.1f GB/s\n", double(frame.size()) / taken / 1e9);
}

// What a token brings beside its graph: six small tensors set, the graph run again, the logits asked for.
void token() {
    Greeted        session;
    const uint64_t handle = load64(&session.ask(alloc(GIB))[8]);
    Wanted         wanted;
    wanted.buffer      = handle;
    wanted.data        = load64(&session.ask(of_buffer(BUFFER_GET_BASE, handle))[8]);
    const Bytes counts = reply(number(FakeWorker::DEVICES, 4));
    Bytes       graph  = sum_graph(handle, wanted.data);
    relay(session.guard, graph);
    reply_to(session.guard, counts);
    Bytes frames;
    for (int i = 0; i < 6; ++i) {
        frames = frames + set(tensor(wanted), 0, Bytes(256));
    }
    frames             = frames + of_device(GRAPH_RECOMPUTE) + get(tensor(wanted), 0, 256);
    const Bytes  reads = counts + reply(Bytes(256));
    Bytes        shown = frames;
    const double taken = seconds_of(2000, [&] {
        std::copy(frames.begin(), frames.end(), shown.begin());
        relay(session.guard, shown);
        reply_to(session.guard, reads);
    });
    std::printf("token %.2f us\n", taken * 1e6);
}

}  // namespace

int main() {
    graph_check();
    payloads();
    token();
    return 0;
}
