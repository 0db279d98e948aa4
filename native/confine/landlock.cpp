#include "confine/landlock.h"

#ifdef __linux__

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <cstring>

namespace rpcmesh::confine {

namespace {

// As in linux/landlock.h and the kernel's table of calls, whose numbers are the same on every architecture.
constexpr long CREATE_RULESET = 444;
constexpr long ADD_RULE       = 445;
constexpr long RESTRICT_SELF  = 446;

constexpr uint32_t ASK_VERSION       = 1;
constexpr int      RULE_PATH_BENEATH = 1;

constexpr uint64_t EXECUTE     = 1ULL << 0;
constexpr uint64_t WRITE_FILE  = 1ULL << 1;
constexpr uint64_t READ_FILE   = 1ULL << 2;
constexpr uint64_t READ_DIR    = 1ULL << 3;
constexpr uint64_t REMOVE_DIR  = 1ULL << 4;
constexpr uint64_t REMOVE_FILE = 1ULL << 5;
constexpr uint64_t MAKE_DIR    = 1ULL << 7;
constexpr uint64_t MAKE_REG    = 1ULL << 8;
constexpr uint64_t MAKE_SOCK   = 1ULL << 9;
constexpr uint64_t TRUNCATE    = 1ULL << 14;
constexpr uint64_t IOCTL_DEV   = 1ULL << 15;
constexpr uint64_t ON_FILES    = EXECUTE | WRITE_FILE | READ_FILE | TRUNCATE | IOCTL_DEV;

constexpr uint64_t BIND_TCP    = 1ULL << 0;
constexpr uint64_t CONNECT_TCP = 1ULL << 1;

constexpr uint64_t SCOPE_ABSTRACT_UNIX = 1ULL << 0;
constexpr uint64_t SCOPE_SIGNAL        = 1ULL << 1;

struct RulesetAttributes {
    uint64_t handled_access_fs;
    uint64_t handled_access_net;
    uint64_t scoped;
};

struct __attribute__((packed)) PathBeneath {
    uint64_t allowed_access;
    int32_t  parent_fd;
};

// What each version brought: how many bits of file rights there are, and how much of the attributes is known.
struct Version {
    int      abi;
    int      fs_bits;
    size_t   attributes_bytes;
};

constexpr Version versions[] = {
    { 1, 13, 8 }, { 2, 14, 8 }, { 3, 15, 8 }, { 4, 15, 16 }, { 5, 16, 16 }, { 6, 16, 24 },
};

struct Row {
    Access   access;
    uint64_t rights;
};

constexpr Row rows[] = {
    { Access::read, READ_FILE | READ_DIR },
    { Access::execute, READ_FILE | EXECUTE },
    { Access::write, READ_FILE | READ_DIR | WRITE_FILE | TRUNCATE },
    { Access::device, READ_FILE | READ_DIR | WRITE_FILE | IOCTL_DEV },
    { Access::sockets, MAKE_SOCK | REMOVE_FILE },
    { Access::scratch, MAKE_SOCK | REMOVE_FILE | READ_FILE | READ_DIR | WRITE_FILE | TRUNCATE | MAKE_REG | MAKE_DIR | REMOVE_DIR },
};

const Version & version_of(int abi) {
    const Version * found = versions;
    for (const Version & one : versions) {
        found = one.abi <= abi ? &one : found;
    }
    return *found;
}

uint64_t handled_fs(int abi) {
    return (1ULL << version_of(abi).fs_bits) - 1;
}

uint64_t rights_of(Access access) {
    for (const Row & row : rows) {
        if (row.access == access) {
            return row.rights;
        }
    }
    return 0;
}

std::string failed(const std::string & what) {
    return "landlock: " + what + ": " + std::strerror(errno);
}

}  // namespace

int landlock_abi(std::string & why) {
    const long abi = syscall(CREATE_RULESET, nullptr, 0, ASK_VERSION);
    if (abi > 0) {
        return static_cast<int>(abi);
    }
    switch (errno) {
        case ENOSYS: why = "landlock: this kernel has none"; break;
        case EOPNOTSUPP: why = "landlock: this system was started without it"; break;
        default: why = failed("the kernel cannot be asked"); break;
    }
    return 0;
}

Ruleset::Ruleset(int abi) : abi_(abi) {
    const RulesetAttributes attributes = { handled_fs(abi), BIND_TCP | CONNECT_TCP, SCOPE_ABSTRACT_UNIX | SCOPE_SIGNAL };
    fd_ = Fd(static_cast<int>(syscall(CREATE_RULESET, &attributes, version_of(abi).attributes_bytes, 0)));
    if (!fd_.valid()) {
        error_ = failed("no rules");
    }
}

std::string Ruleset::allow(const std::string & path, Access access) const {
    const Fd opened(open(path.c_str(), O_PATH | O_CLOEXEC));
    if (opened.valid()) {
        if (path.rfind("/proc/", 0) == 0) {
            // Once nobody holds it, /proc makes another file of the same name, for which there is no rule: left open.
            if (dup(opened.get()) < 0) {
                return failed("cannot hold " + path);
            }
        }
        const std::string error = allow(opened.get(), access);
        return error.empty() ? error : error + " (" + path + ")";
    }
    return errno == ENOENT ? "" : failed("cannot open " + path);
}

std::string Ruleset::allow(int fd, Access access) const {
    struct stat found;
    if (fstat(fd, &found) != 0) {
        return failed("cannot look at a path");
    }
    // Rights about what lies in a folder are refused for a file.
    const uint64_t    fitting = S_ISDIR(found.st_mode) ? ~uint64_t{ 0 } : ON_FILES;
    const PathBeneath rule    = { rights_of(access) & fitting & handled_fs(abi_), fd };
    return syscall(ADD_RULE, fd_.get(), RULE_PATH_BENEATH, &rule, 0) == 0 ? "" : failed("cannot add a rule");
}

std::string Ruleset::enforce() const {
    return syscall(RESTRICT_SELF, fd_.get(), 0) == 0 ? "" : failed("cannot be enforced");
}

}  // namespace rpcmesh::confine

#endif
