#include "confine/loader.h"

#ifdef __linux__

#include <link.h>
#include <sys/auxv.h>

namespace rpcmesh::confine {

// The kernel tells where this program's headers are; one of them gives its own place, and one the loader's name.
std::string loader() {
    const auto *  headers = reinterpret_cast<const ElfW(Phdr) *>(getauxval(AT_PHDR));
    const size_t  count   = getauxval(AT_PHNUM);
    ElfW(Addr)    moved_by = 0;
    for (size_t i = 0; i < count; ++i) {
        if (headers[i].p_type == PT_PHDR) {
            moved_by = reinterpret_cast<ElfW(Addr)>(headers) - headers[i].p_vaddr;
        }
    }
    for (size_t i = 0; i < count; ++i) {
        if (headers[i].p_type == PT_INTERP) {
            return reinterpret_cast<const char *>(moved_by + headers[i].p_vaddr);
        }
    }
    return "";
}

}  // namespace rpcmesh::confine

#endif
