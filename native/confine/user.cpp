#include "confine/user.h"

#include <grp.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstring>

#ifdef __linux__
#include <linux/capability.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#endif

namespace rpcmesh::confine {

namespace {

std::string failed(const char * what) {
    return std::string("user: ") + what + ": " + std::strerror(errno);
}

// The kernel forgets whose death this process must not survive when its user changes.
class Tether {
public:
#ifdef __linux__
    Tether() : parent_(getppid()) { prctl(PR_GET_PDEATHSIG, &signal_); }
    void tie_again() const {
        if (signal_ == 0) {
            return;
        }
        prctl(PR_SET_PDEATHSIG, signal_);
        if (getppid() != parent_) {
            raise(signal_);
        }
    }

private:
    pid_t parent_;
    int   signal_ = 0;
#else
    void tie_again() const {}
#endif
};

#ifdef __linux__
// Takes effect where it is still allowed: before the user changes. Without new privileges the set gives nothing anyway.
void empty_bounding_set() {
    for (int capability = 0; prctl(PR_CAPBSET_READ, capability) >= 0; ++capability) {
        prctl(PR_CAPBSET_DROP, capability);
    }
}

bool has_no_capability() {
    __user_cap_header_struct header  = { _LINUX_CAPABILITY_VERSION_3, 0 };
    __user_cap_data_struct   held[2] = {};
    if (syscall(SYS_capget, &header, held) != 0) {
        return false;
    }
    return std::all_of(held, held + 2, [](const auto & word) { return (word.effective | word.permitted | word.inheritable) == 0; });
}
#else
void empty_bounding_set() {}
#endif

}  // namespace

std::string become(const User & user) {
    const Tether tether;
    empty_bounding_set();
    if (setgroups(static_cast<int>(user.groups.size()), user.groups.data()) != 0) {
        return failed("cannot leave root's groups");
    }
    // As root these set the saved ones too.
    if (setgid(user.gid) != 0 || setuid(user.uid) != 0) {
        return failed("cannot become an ordinary user");
    }
    tether.tie_again();
    return setuid(0) == 0 ? "user: root can be had back" : "";
}

#ifdef __linux__

std::string give_up_rights() {
    empty_bounding_set();
    // Asked only if there are any: a service's unit may forbid the call to those who have none.
    __user_cap_header_struct header  = { _LINUX_CAPABILITY_VERSION_3, 0 };
    __user_cap_data_struct   none[2] = {};
    if (!has_no_capability() && syscall(SYS_capset, &header, none) != 0) {
        return failed("cannot give up capabilities");
    }
    if (prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) != 0) {
        return failed("cannot give up ambient capabilities");
    }
    return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 ? "" : failed("cannot give up new privileges");
}

#else

std::string give_up_rights() {
    return "";
}

#endif

}  // namespace rpcmesh::confine
