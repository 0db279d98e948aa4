// The command line, parsed once: paths and numbers, then the worker's own. Nothing is opened here.
#pragma once

#include <sys/types.h>

#include <optional>
#include <string>
#include <vector>

namespace rpcmesh::confine {

struct User {
    uid_t              uid = 0;
    gid_t              gid = 0;
    // More groups, for devices that belong to one.
    std::vector<gid_t> groups;
};

struct Options {
    // The only folder in which the worker makes anything. It has it as descriptor SCRATCH_FD.
    std::string              scratch;
    // Where the worker and its libraries lie. It has it as descriptor BUILD_FD.
    std::string              build;
    // Files and folders that it may read besides; those that do not exist are left out.
    std::vector<std::string> read;
    // What it may also write, and devices, which it may also control. A device means that it computes on one.
    std::vector<std::string> write;
    std::vector<std::string> device;
    std::optional<User>      user;
    // Unset leaves the limit as it is.
    std::optional<long>      memory_mib;
    std::optional<long>      files;
    std::optional<long>      file_mib;
    // Whatever cannot be put in force is the end, and not a line in the report.
    bool                     require = false;
    // The worker's command, whose first is a path.
    std::vector<std::string> worker;
};

// Descriptors lead where an unprivileged user cannot walk: the worker's paths begin with /proc/self/fd/3 and 4.
constexpr int SCRATCH_FD = 3;
constexpr int BUILD_FD   = 4;

extern const char * const usage;

// False and a one-line `error` if the arguments are not right.
bool parse_options(int argc, const char * const * argv, Options & options, std::string & error);

}  // namespace rpcmesh::confine
