// A clock that runs while something is owed and nothing moves, look by look.
#include "stall_clock.h"

#include <vector>

#include "check.h"

namespace {

using rpcmesh::Clock;
using rpcmesh::StallClock;
using rpcmesh::TimePoint;

struct Look {
    int      at_ms;
    bool     owed;
    uint64_t moved;
    bool     over;
};

struct Row {
    const char *      name;
    std::vector<Look> looks;
};

constexpr std::chrono::milliseconds LIMIT(1000);
constexpr bool                      OWED = true;
constexpr bool                      IDLE = false;
constexpr bool                      OVER = true;

const Row rows[] = {
    { "nothing is owed, for however long", { { 0, IDLE, 0, false }, { 999'999, IDLE, 0, false } } },
    { "one look says nothing", { { 999'999, OWED, 0, false } } },
    { "just short of the limit", { { 0, OWED, 0, false }, { 999, OWED, 0, false } } },
    { "at the limit", { { 0, OWED, 0, false }, { 1000, OWED, 0, OVER } } },
    { "over for as long as nothing changes", { { 0, OWED, 0, false }, { 1000, OWED, 0, OVER }, { 5000, OWED, 0, OVER } } },
    { "counted from the first look at which it was owed", { { 0, IDLE, 0, false }, { 900, OWED, 0, false }, { 1899, OWED, 0, false }, { 1900, OWED, 0, OVER } } },
    { "what moves starts it anew", { { 0, OWED, 0, false }, { 900, OWED, 1, false }, { 1899, OWED, 1, false }, { 1900, OWED, 1, OVER } } },
    { "however little moves", { { 0, OWED, 7, false }, { 999, OWED, 8, false }, { 1998, OWED, 9, false }, { 2997, OWED, 10, false } } },
    { "what is no longer owed starts it anew", { { 0, OWED, 0, false }, { 500, IDLE, 0, false }, { 600, OWED, 0, false }, { 1599, OWED, 0, false }, { 1600, OWED, 0, OVER } } },
    { "time before it was owed does not count", { { 0, IDLE, 0, false }, { 60'000, OWED, 0, false } } },
    { "moving while nothing is owed changes nothing", { { 0, IDLE, 0, false }, { 10, IDLE, 5, false }, { 20, OWED, 5, false }, { 1020, OWED, 5, OVER } } },
    { "a long gap between two looks counts", { { 0, OWED, 0, false }, { 60'000, OWED, 0, OVER } } },
};

void it_runs_while_something_is_owed_and_nothing_moves() {
    for (const Row & row : rows) {
        StallClock clock(LIMIT);
        for (const Look & look : row.looks) {
            check::row = row.name + (" at " + std::to_string(look.at_ms));
            CHECK_EQ(clock.look(look.owed, look.moved, TimePoint() + std::chrono::milliseconds(look.at_ms)), look.over);
        }
    }
}

void a_limit_of_nothing_is_over_at_once() {
    StallClock clock(std::chrono::milliseconds(0));
    CHECK(clock.look(OWED, 0, Clock::now()));
    CHECK(!clock.look(IDLE, 0, Clock::now()));
}

}  // namespace

int main() {
    return check::run({ TEST(it_runs_while_something_is_owed_and_nothing_moves), TEST(a_limit_of_nothing_is_over_at_once) });
}
