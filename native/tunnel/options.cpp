#include "options.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>

#include "fd.h"

namespace rpcmesh {

const char * const usage =
    "usage: rpcmesh-tunnel ingress  --listen ADDR:PORT --identity DIR --routes FILE --status PATH [limits]\n"
    "       rpcmesh-tunnel egress   --identity DIR --routes FILE --status PATH [limits]\n"
    "       rpcmesh-tunnel loopback --listen 127.0.0.1:PORT --to PATH [--status PATH]\n"
    "       rpcmesh-tunnel --version\n"
    "       ingress takes also: --memory-mib N (65536)  --allow-op NAME, for each op that no rule is known for\n"
    "                           --stall-timeout-s N (30)  --compute-timeout-s N (120)  --reset-after-ms N (1000)\n"
    "limits: --max-connections N (64)  --handshake-timeout-s N (10)  --silence-timeout-s N (3)  --lease-wait-ms N (3000)\n";

namespace {

constexpr unsigned IN_INGRESS  = 1;
constexpr unsigned IN_EGRESS   = 2;
constexpr unsigned IN_LOOPBACK = 4;
constexpr unsigned IN_TLS      = IN_INGRESS | IN_EGRESS;
constexpr unsigned IN_ALL      = IN_TLS | IN_LOOPBACK;

struct Text {
    const char * name;
    std::string Options::*member;
    unsigned              allowed;
    unsigned              required;
};

constexpr Text texts[] = {
    { "--listen", &Options::listen, IN_INGRESS | IN_LOOPBACK, IN_INGRESS | IN_LOOPBACK },
    { "--identity", &Options::identity, IN_TLS, IN_TLS },
    { "--routes", &Options::routes, IN_TLS, IN_TLS },
    { "--status", &Options::status, IN_ALL, IN_TLS },
    { "--to", &Options::to, IN_LOOPBACK, IN_LOOPBACK },
};

struct Number {
    const char * name;
    int Options::*member;
    int           least;
    int           most;
};

constexpr Number numbers[] = {
    { "--max-connections", &Options::max_connections, 1, 4096 },
    { "--handshake-timeout-s", &Options::handshake_timeout_s, 1, 300 },
    { "--silence-timeout-s", &Options::silence_timeout_s, 2, 300 },
    { "--lease-wait-ms", &Options::lease_wait_ms, 0, 60'000 },
    { "--stall-timeout-s", &Options::stall_timeout_s, 1, 3600 },
    { "--compute-timeout-s", &Options::compute_timeout_s, 1, 86'400 },
    { "--reset-after-ms", &Options::reset_after_ms, 0, 60'000 },
    { "--memory-mib", &Options::memory_mib, 1, 1 << 30 },
};

bool parse_mode(const std::string & word, Mode & mode, unsigned & bit) {
    if (word == "ingress") {
        mode = Mode::ingress;
        bit  = IN_INGRESS;
    } else if (word == "egress") {
        mode = Mode::egress;
        bit  = IN_EGRESS;
    } else if (word == "loopback") {
        mode = Mode::loopback;
        bit  = IN_LOOPBACK;
    } else {
        return false;
    }
    return true;
}

bool parse_number(const char * text, const Number & number, int & value) {
    char *     end    = nullptr;
    const long parsed = std::strtol(text, &end, 10);
    value             = static_cast<int>(parsed);
    return *text != '\0' && *end == '\0' && parsed >= number.least && parsed <= number.most;
}

// By its name in ggml, as FLASH_ATTN_EXT.
bool allow_op(const std::string & name, guard::Limits & limits) {
    for (uint32_t op = 0; op < guard::OP_COUNT; ++op) {
        if (name == guard::name_of_op(op)) {
            limits.allowed_extra[op] = true;
            return true;
        }
    }
    return false;
}

bool set_option(const char * name, const char * value, unsigned mode, Options & options, std::string & error) {
    for (const Text & row : texts) {
        if (std::strcmp(row.name, name) == 0 && (row.allowed & mode) != 0) {
            options.*row.member = value;
            return true;
        }
    }
    for (const Number & row : numbers) {
        if (std::strcmp(row.name, name) == 0) {
            if (parse_number(value, row, options.*row.member)) {
                return true;
            }
            error = std::string(name) + " must be a number from " + std::to_string(row.least) + " to " + std::to_string(row.most);
            return false;
        }
    }
    if (std::strcmp(name, "--allow-op") == 0 && (mode & IN_INGRESS) != 0) {
        if (allow_op(value, options.limits)) {
            return true;
        }
        error = std::string("--allow-op: ggml has no op ") + value;
        return false;
    }
    error = std::string("unknown option ") + name;
    return false;
}

}  // namespace

bool parse_options(int argc, const char * const * argv, Options & options, std::string & error) {
    unsigned mode = 0;
    if (argc < 2 || !parse_mode(argv[1], options.mode, mode)) {
        error = "the first argument must be ingress, egress or loopback";
        return false;
    }
    for (int i = 2; i < argc; i += 2) {
        if (i + 1 >= argc) {
            error = std::string(argv[i]) + " needs a value";
            return false;
        }
        if (!set_option(argv[i], argv[i + 1], mode, options, error)) {
            return false;
        }
    }
    for (const Text & row : texts) {
        if ((row.required & mode) != 0 && (options.*row.member).empty()) {
            error = std::string(row.name) + " is required";
            return false;
        }
    }
    options.limits.memory_bytes = static_cast<uint64_t>(options.memory_mib) << 20;
    std::string host;
    std::string port;
    if (!options.listen.empty() && !split_address(options.listen, host, port)) {
        error = "--listen must be ADDR:PORT";
        return false;
    }
    if (options.mode == Mode::loopback && !is_loopback(options.listen)) {
        error = "plaintext is served on loopback only, and " + host + " is not a loopback address";
        return false;
    }
    return true;
}

}  // namespace rpcmesh
