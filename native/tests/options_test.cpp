// A command line gives every value it names, or one line that says what is wrong with it.
#include "options.h"

#include <vector>

#include "check.h"

namespace {

using rpcmesh::Mode;
using rpcmesh::Options;
using rpcmesh::parse_options;
using Arguments = std::vector<std::string>;

const Arguments ingress  = { "ingress", "--listen", "10.0.0.1:7443", "--identity", "/id", "--routes", "/routes", "--status", "/s.sock" };
const Arguments egress   = { "egress", "--identity", "/id", "--routes", "/routes", "--status", "/s.sock" };
const Arguments loopback = { "loopback", "--listen", "127.0.0.1:9000", "--to", "/w.sock" };

Arguments operator+(Arguments left, const Arguments & right) {
    left.insert(left.end(), right.begin(), right.end());
    return left;
}

Arguments without(Arguments arguments, const std::string & option) {
    for (auto at = arguments.begin(); at != arguments.end(); ++at) {
        if (*at == option) {
            arguments.erase(at, at + 2);
            break;
        }
    }
    return arguments;
}

std::string line_of(const Arguments & arguments) {
    std::string line = "rpcmesh-tunnel";
    for (const std::string & argument : arguments) {
        line += " '" + argument + "'";
    }
    return line;
}

// The error, or "" if the arguments are right.
std::string parse(const Arguments & arguments, Options & options) {
    std::vector<const char *> argv = { "rpcmesh-tunnel" };
    for (const std::string & argument : arguments) {
        argv.push_back(argument.c_str());
    }
    argv.push_back(nullptr);
    std::string error;
    const bool  right = parse_options(static_cast<int>(argv.size()) - 1, argv.data(), options, error);
    CHECK(right == error.empty());
    CHECK(error.find('\n') == std::string::npos);
    return error;
}

void ingress_takes_its_values() {
    Options options;
    CHECK_EQ(parse(ingress, options), "");
    CHECK(options.mode == Mode::ingress);
    CHECK_EQ(options.listen, "10.0.0.1:7443");
    CHECK_EQ(options.identity, "/id");
    CHECK_EQ(options.routes, "/routes");
    CHECK_EQ(options.status, "/s.sock");
}

void egress_takes_its_values() {
    Options options;
    CHECK_EQ(parse(egress, options), "");
    CHECK(options.mode == Mode::egress);
    CHECK_EQ(options.identity, "/id");
    CHECK_EQ(options.routes, "/routes");
    CHECK_EQ(options.status, "/s.sock");
}

void loopback_takes_its_values() {
    Options options;
    CHECK_EQ(parse(loopback, options), "");
    CHECK(options.mode == Mode::loopback);
    CHECK_EQ(options.listen, "127.0.0.1:9000");
    CHECK_EQ(options.to, "/w.sock");
    CHECK_EQ(options.status, "");
    CHECK_EQ(parse(loopback + Arguments{ "--status", "/s.sock" }, options), "");
    CHECK_EQ(options.status, "/s.sock");
}

void limits_have_defaults() {
    Options options;
    parse(ingress, options);
    CHECK_EQ(options.max_connections, 64);
    CHECK_EQ(options.handshake_timeout_s, 10);
    CHECK_EQ(options.silence_timeout_s, 3);
    CHECK_EQ(options.lease_wait_ms, 3000);
    CHECK_EQ(options.stall_timeout_s, 30);
    CHECK_EQ(options.compute_timeout_s, 120);
    CHECK_EQ(options.reset_after_ms, 1000);
}

void ops_are_allowed_by_their_names() {
    Options options;
    CHECK_EQ(parse(ingress + Arguments{ "--allow-op", "SILU_BACK", "--allow-op", "OPT_STEP_SGD" }, options), "");
    size_t allowed = 0;
    for (uint32_t op = 0; op < rpcmesh::guard::OP_COUNT; ++op) {
        allowed += options.limits.allowed_extra[op] ? 1 : 0;
    }
    CHECK_EQ(allowed, size_t(2));
    CHECK(options.limits.allowed_extra[23]);  // SILU_BACK in ggml.h
    for (const char * name : { "silu_back", "SILU_BAC", "", "23" }) {
        Options other;
        check::row = name;
        CHECK_EQ(parse(ingress + Arguments{ "--allow-op", name }, other), std::string("--allow-op: ggml has no op ") + name);
    }
    check::row.clear();
    Options elsewhere;
    CHECK_EQ(parse(egress + Arguments{ "--allow-op", "SILU_BACK" }, elsewhere), "unknown option --allow-op");
}

void limits_are_held_to_their_bounds() {
    struct Row {
        const char * name;
        int Options::*member;
        int           least;
        int           most;
    };
    const Row rows[] = {
        { "--max-connections", &Options::max_connections, 1, 4096 },
        { "--handshake-timeout-s", &Options::handshake_timeout_s, 1, 300 },
        { "--silence-timeout-s", &Options::silence_timeout_s, 2, 300 },
        { "--lease-wait-ms", &Options::lease_wait_ms, 0, 60000 },
        { "--stall-timeout-s", &Options::stall_timeout_s, 1, 3600 },
        { "--compute-timeout-s", &Options::compute_timeout_s, 1, 86400 },
        { "--reset-after-ms", &Options::reset_after_ms, 0, 60000 },
    };
    for (const Row & row : rows) {
        const std::string refusal =
            std::string(row.name) + " must be a number from " + std::to_string(row.least) + " to " + std::to_string(row.most);
        for (const int right : { row.least, row.most }) {
            Options options;
            check::row = row.name + (" " + std::to_string(right));
            CHECK_EQ(parse(ingress + Arguments{ row.name, std::to_string(right) }, options), "");
            CHECK_EQ(options.*row.member, right);
        }
        const Arguments wrong = { std::to_string(row.least - 1), std::to_string(row.most + 1), "", "x", "3x", "3 ", "0x10", "3.5",
                                  "4294967299", "99999999999999999999", "-99999999999999999999" };
        for (const std::string & value : wrong) {
            Options options;
            check::row = row.name + (" '" + value + "'");
            CHECK_EQ(parse(ingress + Arguments{ row.name, value }, options), refusal);
        }
    }
}

void each_mode_takes_limits() {
    for (const Arguments & arguments : { ingress, egress, loopback }) {
        Options options;
        check::row = line_of(arguments);
        CHECK_EQ(parse(arguments + Arguments{ "--max-connections", "5" }, options), "");
        CHECK_EQ(options.max_connections, 5);
    }
}

void the_last_of_two_equal_options_holds() {
    Options options;
    CHECK_EQ(parse(egress + Arguments{ "--routes", "/other" }, options), "");
    CHECK_EQ(options.routes, "/other");
}

void what_is_missing_is_named() {
    struct Row {
        Arguments    arguments;
        const char * required;
    };
    const Row rows[] = {
        { ingress, "--listen" },  { ingress, "--identity" }, { ingress, "--routes" },  { ingress, "--status" }, { egress, "--identity" },
        { egress, "--routes" },   { egress, "--status" },    { loopback, "--listen" }, { loopback, "--to" },
    };
    for (const Row & row : rows) {
        Options           options;
        const std::string refusal = std::string(row.required) + " is required";
        check::row                = line_of(row.arguments);
        CHECK_EQ(parse(without(row.arguments, row.required), options), refusal);
        CHECK_EQ(parse(row.arguments + Arguments{ row.required, "" }, options), refusal);
    }
}

void what_is_wrong_is_said() {
    const std::string no_mode     = "the first argument must be ingress, egress or loopback";
    const std::string not_address = "--listen must be ADDR:PORT";
    const auto        not_local   = [](const std::string & host) {
        return "plaintext is served on loopback only, and " + host + " is not a loopback address";
    };
    const auto listen = [](const Arguments & arguments, const std::string & address) {
        return arguments + Arguments{ "--listen", address };
    };
    struct Row {
        Arguments   arguments;
        std::string error;
    };
    const Row rows[] = {
        { {}, no_mode },
        { { "" }, no_mode },
        { { "Ingress" }, no_mode },
        { { "--listen", "127.0.0.1:1" }, no_mode },
        { ingress + Arguments{ "--routes" }, "--routes needs a value" },
        { ingress + Arguments{ "--typo" }, "--typo needs a value" },
        { ingress + Arguments{ "--typo", "x" }, "unknown option --typo" },
        { ingress + Arguments{ "more", "x" }, "unknown option more" },
        { ingress + Arguments{ "", "x" }, "unknown option " },
        { ingress + Arguments{ "--to", "/w.sock" }, "unknown option --to" },
        { egress + Arguments{ "--listen", "127.0.0.1:1" }, "unknown option --listen" },
        { loopback + Arguments{ "--identity", "/id" }, "unknown option --identity" },
        { loopback + Arguments{ "--routes", "/routes" }, "unknown option --routes" },
        { listen(ingress, "7443"), not_address },
        { listen(ingress, ":7443"), not_address },
        { listen(ingress, "10.0.0.1:"), not_address },
        { listen(ingress, "10.0.0.1:http"), not_address },
        { listen(ingress, "10.0.0.1:65536"), not_address },
        { listen(ingress, "10.0.0.1:123456789012345678901"), not_address },
        { listen(ingress, "10.0.0.1:-1"), not_address },
        { listen(ingress, "fe80::1:7443"), not_address },
        { listen(ingress, "[]:7443"), not_address },
        { listen(loopback, "0.0.0.0:1"), not_local("0.0.0.0") },
        { listen(loopback, "10.0.0.1:1"), not_local("10.0.0.1") },
        { listen(loopback, "[::]:1"), not_local("::") },
        { listen(loopback, "128.0.0.1:1"), not_local("128.0.0.1") },
        // A name may lead anywhere tomorrow.
        { listen(loopback, "localhost:1"), not_local("localhost") },
    };
    for (const Row & row : rows) {
        Options options;
        check::row = line_of(row.arguments);
        CHECK_EQ(parse(row.arguments, options), row.error);
    }
}

void addresses_of_both_families_are_right() {
    for (const char * address : { "0.0.0.0:0", "10.0.0.1:65535", "[::]:7443", "[fe80::1%lo]:7443" }) {
        Options options;
        check::row = address;
        CHECK_EQ(parse(ingress + Arguments{ "--listen", address }, options), "");
    }
    for (const char * address : { "127.0.0.1:1", "127.255.0.9:1", "[::1]:1" }) {
        Options options;
        check::row = address;
        CHECK_EQ(parse(loopback + Arguments{ "--listen", address }, options), "");
    }
}

}  // namespace

int main() {
    return check::run({
        TEST(ingress_takes_its_values),
        TEST(egress_takes_its_values),
        TEST(loopback_takes_its_values),
        TEST(limits_have_defaults),
        TEST(ops_are_allowed_by_their_names),
        TEST(limits_are_held_to_their_bounds),
        TEST(each_mode_takes_limits),
        TEST(the_last_of_two_equal_options_holds),
        TEST(what_is_missing_is_named),
        TEST(what_is_wrong_is_said),
        TEST(addresses_of_both_families_are_right),
    });
}
