// How fast the guard alone is: weights that pass in place, and the small frames of one token. Figures, not a test.
#include <chrono>
#include <cstdio>
#include <cstdlib>

#include "guard_session.h"

namespace {

using namespace frames;
using Clock = std::chrono::steady_clock;

constexpr size_t   CHUNK = 256 * 1024;
constexpr uint64_t GIB   = uint64_t(1) << 30;

double seconds_since(Clock::time_point begin) {
    return std::chrono::duration<double>(Clock::now() - begin).count();
}

// Shows the guard all of `bytes` and throws away what it says, as a pump without sockets would.
void relay(Guard & guard, Bytes & bytes) {
    for (size_t at = 0; at < bytes.size();) {
        const Step step = guard.from_client(bytes.data() + at, bytes.size() - at);
        if (step.kind == Kind::refuse || step.kind == Kind::wait) {
            std::printf("refused: %s\n", guard.finding().detail.c_str());
            std::exit(1);
        }
        at += step.kind == Kind::pass || step.kind == Kind::drop ? step.size : 0;
    }
}

void reply_to(Guard & guard, Bytes bytes) {
    for (size_t at = 0; at < bytes.size();) {
        at += guard.from_worker(bytes.data() + at, bytes.size() - at).size;
    }
}

// `touch`: each chunk is written before and read after, as by two system calls.
void weights(bool touch) {
    Session session;
    session.worker.memory = 4 * GIB;
    const uint64_t handle = load64(&session.ask(alloc(GIB))[8]);
    Wanted         wanted;
    wanted.buffer = handle;
    wanted.data   = load64(&session.ask(of_buffer(BUFFER_GET_BASE, handle))[8]);
    wanted.ne     = { { 4096, 65536, 1, 1 } };
    Bytes head    = header(SET_TENSOR, SET_HEAD_BYTES + GIB) + tensor(wanted) + Bytes(9);
    Bytes from(CHUNK);
    Bytes chunk(CHUNK);
    Bytes to(CHUNK);
    const Clock::time_point begin = Clock::now();
    for (int round = 0; round < 4; ++round) {
        Bytes again = head;
        relay(session.guard, again);
        for (uint64_t sent = 0; sent < GIB; sent += CHUNK) {
            if (touch) {
                std::copy(from.begin(), from.end(), chunk.begin());
            }
            relay(session.guard, chunk);
            if (touch) {
                std::copy(chunk.begin(), chunk.end(), to.begin());
            }
        }
    }
    std::printf("weights in 256 KiB pieces%-24s %8.1f GB/s\n", touch ? ", copied in and out" : "", 4.0 * GIB / seconds_since(begin) / 1e9);
}

void tokens() {
    constexpr int TOKENS = 100000;
    Session       session;
    Bytes         graph = sum_graph(session.handle, session.base);
    relay(session.guard, graph);
    reply_to(session.guard, reply(number(2, 4)));
    Bytes token;
    for (int i = 0; i < 6; ++i) {
        token = token + set(tensor(session.floats()), 0, Bytes(256));
    }
    token = token + of_device(GRAPH_RECOMPUTE) + get(tensor(session.floats()), 0, 256);
    const Bytes             replies = reply(number(2, 4)) + reply(Bytes(256));
    const Clock::time_point begin   = Clock::now();
    for (int i = 0; i < TOKENS; ++i) {
        Bytes again = token;
        relay(session.guard, again);
        reply_to(session.guard, replies);
    }
    std::printf("one token's frames (6 SET, RECOMPUTE, GET)        %8.2f us\n", seconds_since(begin) / TOKENS * 1e6);
}

// As many nodes as SmolLM2's graph has, in a chain of sums.
void graphs() {
    constexpr int         GRAPHS = 500;
    constexpr uint64_t    NODES  = 1295;
    Session               session;
    std::vector<uint64_t> nodes;
    std::vector<Bytes>    tensors = { tensor(session.floats()) };
    for (uint64_t i = 1; i <= NODES; ++i) {
        Wanted sum = session.floats(256 * (i % 4));
        sum.id     = 0x1000 + i;
        sum.op     = ADD;
        sum.flags  = 16;
        sum.src    = { 0x1000 + i - 1, 0x1000 };
        tensors.push_back(tensor(sum));
        nodes.push_back(sum.id);
    }
    const Bytes             whole  = graph(nodes, tensors);
    const Bytes             counts = reply(number(2, 4));
    const Clock::time_point begin  = Clock::now();
    for (int i = 0; i < GRAPHS; ++i) {
        Bytes again = whole;
        relay(session.guard, again);
        reply_to(session.guard, counts);
    }
    std::printf("a graph of %llu nodes, collected, checked, placed   %8.1f us\n", static_cast<unsigned long long>(NODES), seconds_since(begin) / GRAPHS * 1e6);
}

}  // namespace

int main() {
    weights(false);
    weights(true);
    tokens();
    graphs();
    return check::failures == 0 ? 0 : 1;
}
