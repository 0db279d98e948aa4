// Which nodes the guard lets through: of every op that has a rule, one at least as ggml builds it, and one that would
// abort a kernel or take it out of its tensors.
#include <algorithm>
#include <set>

#include "check.h"
#include "guard_ops_changes.h"
#include "guard_ops_rows.h"
#include "guard_ops_text.h"

namespace {

using namespace rpcmesh::guard;

using namespace ops_rows;

struct Family {
    const Row * begin;
    const Row * end;
};

constexpr Family families[] = {
    { std::begin(layout), std::end(layout) },       { std::begin(arithmetic), std::end(arithmetic) }, { std::begin(matrix), std::end(matrix) },
    { std::begin(attention), std::end(attention) }, { std::begin(recurrent), std::end(recurrent) },   { std::begin(image), std::end(image) },
};

template <typename Seen> void for_each_row(Seen seen) {
    for (const Family & family : families) {
        for (const Row * row = family.begin; row != family.end; ++row) {
            seen(*row);
        }
    }
}

const std::array<bool, OP_COUNT> no_extras{};

void nodes_are_judged_as_the_tables_say() {
    for_each_row([](const Row & row) {
        check::row                 = row.node;
        const ops_text::Parsed got = ops_text::parse(row.node);
        for (const auto & tensor : got.tensors) {
            CHECK_EQ(check_type_and_shape(*tensor).detail, "");
        }
        const Finding finding = check_op(got.node, no_extras);
        CHECK_EQ(std::string(name_of(finding.refusal)), name_of(row.expected));
        CHECK(!finding || finding.op == static_cast<int>(got.node.self->op));
    });
}

// `node` with one of its words changed, or with one more.
std::string changed(const std::string & node, const std::string & change) {
    const size_t             colon = change.find(':');
    const size_t             key   = change.find('=');
    std::istringstream       stream(node);
    std::vector<std::string> words;
    for (std::string word; stream >> word;) {
        words.push_back(word);
    }
    if (colon != std::string::npos) {
        const size_t place = std::stoul(change.substr(0, colon));
        // Between the result and its sources stand "=" and the op.
        words.at(place == 0 ? 0 : place + 2) = change.substr(colon + 1);
    } else {
        words.erase(std::remove_if(words.begin() + 2, words.end(), [&](const std::string & word) { return word.compare(0, key + 1, change, 0, key + 1) == 0; }),
                    words.end());
        words.push_back(change);
    }
    std::string text;
    for (const std::string & word : words) {
        text += word + " ";
    }
    return text;
}

void one_change_to_a_sound_node_is_refused() {
    for (const ops_changes::Row & row : ops_changes::rows) {
        check::row = row.node;
        CHECK_EQ(check_op(ops_text::parse(row.node).node, no_extras).detail, "");
        for (const char * change : row.changes) {
            check::row                 = std::string(row.node) + "  " + change;
            const ops_text::Parsed got = ops_text::parse(changed(row.node, change));
            CHECK(bool(check_op(got.node, no_extras)));
        }
    }
}

void every_rule_lets_something_through_and_stops_something() {
    std::set<uint32_t> passed;
    std::set<uint32_t> stopped;
    for_each_row([&](const Row & row) { (row.expected == OK ? passed : stopped).insert(ops_text::parse(row.node).node.self->op); });
    for (uint32_t op = 0; op < OP_COUNT; ++op) {
        check::row = name_of_op(op);
        CHECK_EQ(passed.count(op) != 0, is_op_known(op));
        CHECK_EQ(stopped.count(op) != 0, is_op_known(op));
    }
}

Finding check_alone(uint32_t op, const std::array<bool, OP_COUNT> & extras) {
    Tensor tensor{};
    tensor.op = op;
    tensor.ne = { 1, 1, 1, 1 };
    tensor.nb = { 4, 4, 4, 4 };
    Node node{};
    node.self = &tensor;
    return check_op(node, extras);
}

void an_op_without_a_rule_passes_only_when_it_is_allowed_by_name() {
    std::array<bool, OP_COUNT> extras{};
    const uint32_t             op = ops_text::op_named("SILU_BACK");
    CHECK(check_alone(op, extras).refusal == Refusal::op_forbidden);
    extras[op] = true;
    CHECK(check_alone(op, extras).refusal == Refusal::none);
}

void function_pointers_never_pass() {
    std::array<bool, OP_COUNT> extras{};
    extras.fill(true);
    for (const char * name : { "MAP_CUSTOM1", "MAP_CUSTOM2", "MAP_CUSTOM3", "CUSTOM" }) {
        check::row = name;
        CHECK(check_alone(ops_text::op_named(name), extras).refusal == Refusal::op_forbidden);
    }
}

void an_op_beyond_the_last_is_forbidden() {
    std::array<bool, OP_COUNT> extras{};
    extras.fill(true);
    for (uint32_t op : { OP_COUNT, OP_COUNT + 1, UINT32_MAX }) {
        CHECK(check_alone(op, extras).refusal == Refusal::op_forbidden);
    }
}

void an_allowed_op_with_a_rule_is_still_judged() {
    std::array<bool, OP_COUNT> extras{};
    extras.fill(true);
    const ops_text::Parsed got = ops_text::parse("f32[7,5] = MUL_MAT f32[4,6] f32[4,5]");
    CHECK(check_op(got.node, extras).refusal == Refusal::op_shape);
}

void a_refusal_says_what_it_saw() {
    const ops_text::Parsed got = ops_text::parse("f32[7,5] = MUL_MAT f32[4,6] f32[4,5]");
    CHECK_EQ(check_op(got.node, no_extras).detail,
             "MUL_MAT: the product does not fit its factors: f32[7,5,1,1] of f32[4,6,1,1] f32[4,5,1,1]");
}

}  // namespace

int main() {
    return check::run({
        TEST(nodes_are_judged_as_the_tables_say),
        TEST(one_change_to_a_sound_node_is_refused),
        TEST(every_rule_lets_something_through_and_stops_something),
        TEST(an_op_without_a_rule_passes_only_when_it_is_allowed_by_name),
        TEST(function_pointers_never_pass),
        TEST(an_op_beyond_the_last_is_forbidden),
        TEST(an_allowed_op_with_a_rule_is_still_judged),
        TEST(a_refusal_says_what_it_saw),
    });
}
