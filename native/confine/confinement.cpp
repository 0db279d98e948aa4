#include "confine/confinement.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <cstring>

#include "confine/landlock.h"
#include "confine/loader.h"
#include "confine/seccomp.h"
#include "confine/user.h"
#include "tunnel/json.h"

#ifdef __linux__
#include <sys/syscall.h>
#endif

namespace rpcmesh::confine {

namespace {

#ifdef __linux__

constexpr unsigned FIRST_OTHER_FD = BUILD_FD + 1;
// Where the kernel has no close_range: no parent of ours has more descriptors open.
constexpr int LAST_OTHER_FD = 1024;

// A folder under a number of our choice, to be kept by the worker.
std::string hold(const std::string & path, int as) {
    Fd opened(open(path.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
    // First out of the way, should its number be one of those that are to be given.
    const Fd moved(opened.valid() ? fcntl(opened.get(), F_DUPFD_CLOEXEC, FIRST_OTHER_FD) : -1);
    opened.reset();
    if (!moved.valid() || dup2(moved.get(), as) != as) {
        return path + ": " + std::strerror(errno);
    }
    return "";
}

std::string hold_folders(const Options & options) {
    std::string error = hold(options.scratch, SCRATCH_FD);
    if (error.empty()) {
        error = hold(options.build, BUILD_FD);
    }
    // Whatever else was left open by those before is not the worker's.
    if (syscall(SYS_close_range, FIRST_OTHER_FD, ~0U, 0) != 0) {
        for (int fd = FIRST_OTHER_FD; fd < LAST_OTHER_FD; ++fd) {
            close(fd);
        }
    }
    // The loader knows a binary's folder by its path only, which the worker's user may not be able to walk.
    setenv("LD_LIBRARY_PATH", ("/proc/self/fd/" + std::to_string(BUILD_FD)).c_str(), 1);
    return error;
}

std::string allow_all(const Ruleset & rules, const std::vector<std::string> & paths, Access access) {
    for (const std::string & path : paths) {
        const std::string error = rules.allow(path, access);
        if (!error.empty()) {
            return error;
        }
    }
    return "";
}

// The first error of several.
template <typename... Steps> std::string first_error(const Steps &... steps) {
    std::string error;
    (void) ((error = steps(), error.empty()) && ...);
    return error;
}

std::string allow_what_a_worker_needs(const Ruleset & rules, const Options & options) {
    const bool computes_on_devices = !options.device.empty();
    return first_error([&] { return rules.error(); },
                       [&] { return rules.allow(SCRATCH_FD, computes_on_devices ? Access::scratch : Access::sockets); },
                       [&] { return rules.allow(BUILD_FD, Access::read); },
                       [&] { return rules.allow(options.worker.front(), Access::execute); },
                       [&] { return rules.allow(loader(), Access::execute); },
                       [&] { return allow_all(rules, options.read, Access::read); },
                       [&] { return allow_all(rules, options.write, Access::write); },
                       [&] { return allow_all(rules, options.device, Access::device); });
}

#endif

}  // namespace

std::string Confinement::without(const std::string & error) {
    if (!error.empty() && !options_.require) {
        missing_.push_back(error);
        return "";
    }
    return error;
}

#ifdef __linux__

// Paths are opened while whoever started this can walk there; the rules hold once all rights are given up.
std::string Confinement::restrict_files_and_rights() {
    std::string   rules_error;
    const int     abi = landlock_abi(rules_error);
    const Ruleset rules(abi);
    if (abi > 0) {
        rules_error = allow_what_a_worker_needs(rules, options_);
    }
    const std::string error = first_error([&] { return options_.user ? become(*options_.user) : ""; }, give_up_rights);
    if (!error.empty()) {
        return error;
    }
    if (rules_error.empty()) {
        rules_error = rules.enforce();
    }
    landlock_ = rules_error.empty() ? abi : 0;
    return without(rules_error);
}

std::string Confinement::restrict_calls() {
    const std::string error = enforce(call_filter(getpid(), !options_.device.empty()));
    call_filter_            = error.empty() ? 1 : 0;
    return without(error);
}

std::string Confinement::put_in_force() {
    std::signal(SIGPIPE, SIG_IGN);
    return first_error([&] { return hold_folders(options_); }, [&] { return without(set_limits(options_, limits_)); },
                       [&] { return restrict_files_and_rights(); }, [&] { return restrict_calls(); });
}

#else

// The walls are those of the profile with which the worker is started.
std::string Confinement::put_in_force() {
    std::signal(SIGPIPE, SIG_IGN);
    const std::string error = without(set_limits(options_, limits_));
    return error.empty() && options_.user ? become(*options_.user) : error;
}

#endif

std::string Confinement::report() const {
    Json json;
    json.open_object().field("event", "worker_confined").field("level", missing_.empty() ? "info" : "warning");
    json.field("uid", static_cast<uint64_t>(getuid())).field("landlock", static_cast<uint64_t>(landlock_));
    json.field("call_filter", static_cast<uint64_t>(call_filter_)).key("limits").open_object();
    for (const Limit & limit : limits_) {
        json.field(limit.name, static_cast<uint64_t>(limit.value));
    }
    json.close_object().key("missing").open_array();
    for (const std::string & what : missing_) {
        json.value(what);
    }
    return json.close_array().close_object().text();
}

std::string refusal(const std::string & reason) {
    Json json;
    json.open_object().field("event", "worker_not_confined").field("level", "error").field("reason", reason);
    return json.close_object().text();
}

}  // namespace rpcmesh::confine
