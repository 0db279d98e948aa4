// Landlock: which files a process may open, which TCP ports it may use, whom it may signal. Linux only, by raw system
// calls, because the C library has none and old kernel headers know only the first version.
#pragma once

#include <string>

#include "tunnel/fd.h"

namespace rpcmesh::confine {

// What may be done with a path and all below it.
enum class Access {
    read,
    execute,  // and read
    write,    // and read, but not make or remove anything
    device,   // the same, and control it
    sockets,  // make sockets there and take them away, and nothing else
    scratch,  // the same with files and folders
};

// The newest version that this kernel has: 0 for none, and then `why` says it in one line.
int landlock_abi(std::string & why);

// Errors are one line; an empty one is none.
class Ruleset {
public:
    // Everything that the kernel's version can deny is denied until it is allowed.
    explicit Ruleset(int abi);

    const std::string & error() const { return error_; }
    // A path that does not exist is left out.
    std::string allow(const std::string & path, Access access) const;
    std::string allow(int fd, Access access) const;
    // From here on, for this process and whatever it becomes. Needs no_new_privs.
    std::string enforce() const;

private:
    int         abi_;
    Fd          fd_;
    std::string error_;
};

}  // namespace rpcmesh::confine
