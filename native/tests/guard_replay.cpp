// Recorded sessions of real clients, played against a guard: nothing is refused, and both ends see what they saw.
// guard_replay FILE...  (uncompressed: see tests/recordings/README.md)
#include <cstdio>
#include <fstream>
#include <iterator>
#include <random>

#include "guard_replayed.h"

namespace {

using namespace frames;

size_t all_at_once(size_t waiting) {
    return waiting;
}

// Pieces of every order of size: most steps see a few bytes, most bytes come in large pieces.
Replayed::Cut at_random(uint32_t seed) {
    auto random = std::make_shared<std::mt19937>(seed);
    return [random](size_t) { return 1 + (*random)() % (size_t(2) << (*random)() % 16); };
}

struct Totals {
    size_t sessions = 0;
    size_t frames   = 0;
    size_t graphs   = 0;
    size_t failures = 0;
};

void replay(const Recorded & session, Totals & totals) {
    Replayed          whole(session, all_at_once);
    const std::string complaint = whole.run();
    Replayed          pieces(session, at_random(static_cast<uint32_t>(totals.sessions)));
    const std::string in_pieces = pieces.run();
    if (!complaint.empty() || !in_pieces.empty()) {
        std::fprintf(stderr, "%s%s\n", complaint.empty() ? "in pieces: " : "", (complaint.empty() ? in_pieces : complaint).c_str());
        ++totals.failures;
    }
    ++totals.sessions;
    totals.frames += whole.frames;
    totals.graphs += whole.graphs;
}

}  // namespace

int main(int count, char ** arguments) {
    Totals totals;
    for (int i = 1; i < count; ++i) {
        std::ifstream file(arguments[i], std::ios::binary);
        const Bytes   content{ std::istreambuf_iterator<char>(file), {} };
        const auto    sessions = sessions_of(content);
        if (!sessions) {
            std::fprintf(stderr, "%s is no recording\n", arguments[i]);
            ++totals.failures;
            continue;
        }
        for (const Recorded & session : *sessions) {
            replay(session, totals);
        }
    }
    std::printf("%zu sessions, %zu frames, %zu graphs, %zu failures\n", totals.sessions, totals.frames, totals.graphs, totals.failures);
    return totals.failures == 0 && totals.sessions > 0 ? 0 : 1;
}
