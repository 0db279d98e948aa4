// All of a test framework that is needed here: CHECK, CHECK_EQ, a label for a table's row, and a list of tests in main().
#pragma once

#include <atomic>
#include <cstdio>
#include <initializer_list>
#include <sstream>
#include <string>

namespace check {

inline std::atomic<int> failures{ 0 };
// Says which row of a table is at hand, in the failures' lines.
inline thread_local std::string row;

inline void fail(const std::string & what, const char * file, int line) {
    ++failures;
    std::fprintf(stderr, "%s:%d: %s%s%s\n", file, line, what.c_str(), row.empty() ? "" : "  with ", row.c_str());
}

template <typename A, typename B> void equal(const A & a, const B & b, const char * expression, const char * file, int line) {
    if (!(a == b)) {
        std::ostringstream text;
        text << expression << "\n    left  " << a << "\n    right " << b << "\n   ";
        fail(text.str(), file, line);
    }
}

struct Test {
    const char * name;
    void (*body)();
};

// What main() returns.
inline int run(std::initializer_list<Test> tests) {
    for (const Test & test : tests) {
        const int before = failures;
        row.clear();
        test.body();
        if (failures != before) {
            std::fprintf(stderr, "FAILED %s\n", test.name);
        }
    }
    std::printf("%zu tests, %d failures\n", tests.size(), failures.load());
    return failures == 0 ? 0 : 1;
}

}  // namespace check

#define CHECK(expression) ((expression) ? (void) 0 : check::fail("CHECK(" #expression ")", __FILE__, __LINE__))
#define CHECK_EQ(a, b) check::equal((a), (b), "CHECK_EQ(" #a ", " #b ")", __FILE__, __LINE__)
#define TEST(function) { #function, function }
