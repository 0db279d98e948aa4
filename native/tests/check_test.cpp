// A check that cannot fail would make every other test here worthless.
#include "check.h"

namespace {

// Takes back the failures that `body` is meant to cause.
template <typename Body> int failures_of(Body body) {
    const int before = check::failures;
    body();
    const int caused = check::failures - before;
    check::failures  = before;
    return caused;
}

void a_false_expression_is_one_failure() {
    const int caused = failures_of([] { CHECK(1 + 1 == 3); });
    CHECK(caused == 1);
}

void a_true_expression_is_none() {
    const int caused = failures_of([] { CHECK(1 + 1 == 2); });
    CHECK(caused == 0);
}

void different_values_are_one_failure() {
    const int caused = failures_of([] { CHECK_EQ(std::string("a"), "b"); });
    CHECK(caused == 1);
}

void equal_values_are_none() {
    const int caused = failures_of([] { CHECK_EQ(std::string("a"), "a"); });
    CHECK(caused == 0);
}

void a_failure_makes_the_program_fail() {
    int       status = 0;
    const int caused = failures_of([&] { status = check::run({ { "meant to fail", [] { CHECK(false); } } }); });
    CHECK(caused == 1);
    CHECK_EQ(status, 1);
}

}  // namespace

int main() {
    const int status = check::run({
        TEST(a_false_expression_is_one_failure),
        TEST(a_true_expression_is_none),
        TEST(different_values_are_one_failure),
        TEST(equal_values_are_none),
        TEST(a_failure_makes_the_program_fail),
    });
    return status;
}
