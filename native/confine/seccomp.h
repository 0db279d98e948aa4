// The system calls that a worker may make, as a program for the kernel's filter. Linux only. Building it is pure.
#pragma once

#ifdef __linux__

#include <linux/filter.h>
#include <sys/types.h>

#include <string>
#include <vector>

namespace rpcmesh::confine {

// For the process `self`, which may signal nobody else. One with devices may also control them and make code while it
// runs, as their drivers do.
std::vector<sock_filter> call_filter(pid_t self, bool devices);

// From here on, for this process and whatever it becomes. Needs no_new_privs. Empty, or one line that says why not.
std::string enforce(const std::vector<sock_filter> & filter);

}  // namespace rpcmesh::confine

#endif
