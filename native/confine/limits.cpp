#include "confine/limits.h"

#include <sys/resource.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

namespace rpcmesh::confine {

namespace {

struct Row {
    const char *        name;
    // glibc's is an enumeration in C++, macOS's a number.
    int                 resource;
    std::optional<long> value;
    rlim_t              unit;
};

constexpr rlim_t MIB = 1 << 20;

// Soft and hard, so that it cannot be raised again; a lower one that holds already stays.
bool lower(const Row & row) {
    rlimit     limit  = {};
    const auto wanted = static_cast<rlim_t>(*row.value) * row.unit;
    const auto resource = static_cast<decltype(RLIMIT_CORE)>(row.resource);
    if (getrlimit(resource, &limit) != 0) {
        return false;
    }
    limit.rlim_max = std::min(limit.rlim_max, wanted);
    limit.rlim_cur = std::min(limit.rlim_cur, limit.rlim_max);
    return setrlimit(resource, &limit) == 0;
}

}  // namespace

std::string set_limits(const Options & options, std::vector<Limit> & limits) {
    const Row rows[] = {
        { "core_mib", RLIMIT_CORE, 0, MIB },
        { "files", RLIMIT_NOFILE, options.files, 1 },
        { "file_mib", RLIMIT_FSIZE, options.file_mib, MIB },
        { "memory_mib", RLIMIT_AS, options.memory_mib, MIB },
    };
    for (const Row & row : rows) {
        if (!row.value) {
            continue;
        }
        if (!lower(row)) {
            return std::string("limits: ") + row.name + ": " + std::strerror(errno);
        }
        limits.push_back({ row.name, *row.value });
    }
    return "";
}

}  // namespace rpcmesh::confine
