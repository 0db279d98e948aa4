#include "confine/options.h"

#include <cerrno>
#include <cstdlib>
#include <cstring>

namespace rpcmesh::confine {

const char * const usage =
    "usage: rpcmesh-confine --scratch DIR --build DIR [--read PATH].. [--write PATH].. [--device PATH]..\n"
    "                       [--user UID:GID [--group GID]..] [--memory-mib N] [--files N] [--file-mib N] [--require]\n"
    "                       -- WORKER ARGUMENTS..\n"
    "Gives up rights, says in one line of JSON which, and becomes WORKER, which has the two folders as\n"
    "/proc/self/fd/3 and /proc/self/fd/4.\n";

namespace {

struct Text {
    const char * name;
    std::string Options::*member;
};

constexpr Text texts[] = {
    { "--scratch", &Options::scratch },
    { "--build", &Options::build },
};

struct List {
    const char * name;
    std::vector<std::string> Options::*member;
};

constexpr List lists[] = {
    { "--read", &Options::read },
    { "--write", &Options::write },
    { "--device", &Options::device },
};

struct Number {
    const char * name;
    std::optional<long> Options::*member;
    long                          least;
    long                          most;
};

constexpr Number numbers[] = {
    { "--memory-mib", &Options::memory_mib, 64, 1L << 32 },
    { "--files", &Options::files, 16, 1L << 20 },
    { "--file-mib", &Options::file_mib, 0, 1L << 30 },
};

// No user and no group is above this; the highest number means "leave it as it is" to the kernel.
constexpr long MAX_ID = 4294967294L;

bool parse_number(const std::string & text, long least, long most, long & value) {
    char * end = nullptr;
    errno      = 0;
    value      = std::strtol(text.c_str(), &end, 10);
    // strtol would also take a sign and blanks.
    return !text.empty() && text.find_first_not_of("0123456789") == std::string::npos && errno == 0 && *end == '\0' && value >= least &&
           value <= most;
}

bool parse_user(const std::string & text, User & user) {
    const size_t colon = text.find(':');
    long         uid   = 0;
    long         gid   = 0;
    // Root is not a user to become.
    if (colon == std::string::npos || !parse_number(text.substr(0, colon), 1, MAX_ID, uid) ||
        !parse_number(text.substr(colon + 1), 1, MAX_ID, gid)) {
        return false;
    }
    user.uid = static_cast<uid_t>(uid);
    user.gid = static_cast<gid_t>(gid);
    return true;
}

bool set_user(const std::string & name, const std::string & value, Options & options, std::string & error) {
    User user = options.user.value_or(User());
    long gid  = 0;
    if (name == "--user") {
        if (!parse_user(value, user)) {
            error = "--user must be UID:GID, and neither of them 0";
            return false;
        }
    } else if (!options.user || !parse_number(value, 1, MAX_ID, gid)) {
        error = "--group must be a number above 0, after --user";
        return false;
    } else {
        user.groups.push_back(static_cast<gid_t>(gid));
    }
    options.user = user;
    return true;
}

bool set_option(const std::string & name, const std::string & value, Options & options, std::string & error) {
    for (const Text & row : texts) {
        if (name == row.name) {
            options.*row.member = value;
            return true;
        }
    }
    for (const List & row : lists) {
        if (name == row.name) {
            (options.*row.member).push_back(value);
            return true;
        }
    }
    for (const Number & row : numbers) {
        long number = 0;
        if (name != row.name) {
            continue;
        }
        if (!parse_number(value, row.least, row.most, number)) {
            error = name + " must be a number from " + std::to_string(row.least) + " to " + std::to_string(row.most);
            return false;
        }
        options.*row.member = number;
        return true;
    }
    if (name == "--user" || name == "--group") {
        return set_user(name, value, options, error);
    }
    error = "unknown option " + name;
    return false;
}

bool all_are_there(const Options & options, std::string & error) {
    for (const Text & row : texts) {
        if ((options.*row.member).empty()) {
            error = std::string(row.name) + " is required";
            return false;
        }
    }
    if (options.worker.empty() || options.worker.front().empty() || options.worker.front().front() != '/') {
        error = "after -- must come the worker's absolute path";
        return false;
    }
    return true;
}

}  // namespace

bool parse_options(int argc, const char * const * argv, Options & options, std::string & error) {
    int at = 1;
    while (at < argc && std::strcmp(argv[at], "--") != 0) {
        const std::string name = argv[at];
        if (name == "--require") {
            options.require = true;
            ++at;
            continue;
        }
        if (at + 1 >= argc) {
            error = name + " needs a value";
            return false;
        }
        if (!set_option(name, argv[at + 1], options, error)) {
            return false;
        }
        at += 2;
    }
    for (++at; at < argc; ++at) {
        options.worker.emplace_back(argv[at]);
    }
    return all_are_there(options, error);
}

}  // namespace rpcmesh::confine
