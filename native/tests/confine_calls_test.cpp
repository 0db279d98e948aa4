// The filter's verdict on single calls, by running its program as the kernel does. Nothing is put in force here.
#include "check.h"

#ifdef __linux__

#include <linux/audit.h>
#include <linux/seccomp.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <fcntl.h>
#include <sched.h>

#include <cerrno>
#include <cstring>
#include <vector>

#include "confine/seccomp.h"

namespace {

using rpcmesh::confine::call_filter;

constexpr pid_t    SELF   = 4711;
constexpr uint64_t HIGH   = 0xffffffff00000000;
constexpr uint32_t ALLOW  = SECCOMP_RET_ALLOW;
constexpr uint32_t KILL   = SECCOMP_RET_KILL_PROCESS;
constexpr uint32_t EPERM_ = SECCOMP_RET_ERRNO | EPERM;
constexpr uint32_t ENOSYS_ = SECCOMP_RET_ERRNO | ENOSYS;

#if defined(__x86_64__)
constexpr uint32_t HERE = AUDIT_ARCH_X86_64;
constexpr uint32_t THERE = AUDIT_ARCH_I386;
#else
constexpr uint32_t HERE = AUDIT_ARCH_AARCH64;
constexpr uint32_t THERE = AUDIT_ARCH_ARM;
#endif

// The few instructions of classic BPF that the filter is made of; any other fails the test.
uint32_t verdict(const std::vector<sock_filter> & program, const seccomp_data & call) {
    uint32_t value = 0;
    for (size_t at = 0; at < program.size(); ++at) {
        const sock_filter & one = program[at];
        switch (one.code) {
            case BPF_LD | BPF_W | BPF_ABS:
                CHECK(one.k + sizeof(value) <= sizeof(call));
                std::memcpy(&value, reinterpret_cast<const char *>(&call) + one.k, sizeof(value));
                break;
            case BPF_ALU | BPF_AND | BPF_K: value &= one.k; break;
            case BPF_JMP | BPF_JEQ | BPF_K: at += value == one.k ? one.jt : one.jf; break;
            case BPF_JMP | BPF_JGT | BPF_K: at += value > one.k ? one.jt : one.jf; break;
            case BPF_RET | BPF_K: return one.k;
            default: CHECK(false); return KILL;
        }
    }
    CHECK(false);  // it ran past its end
    return KILL;
}

seccomp_data call(long number, uint64_t first = 0, uint64_t second = 0, uint64_t third = 0, uint32_t architecture = HERE) {
    return { static_cast<int>(number), architecture, 0, { first, second, third, 0, 0, 0 } };
}

struct Row {
    const char * what;
    seccomp_data made;
    uint32_t     alone;
    uint32_t     with_devices;
};

const uint64_t thread = CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD | CLONE_SYSVSEM | CLONE_SETTLS;

const Row rows[] = {
    { "read", call(SYS_read, 0), ALLOW, ALLOW },
    { "futex", call(SYS_futex, 1), ALLOW, ALLOW },
    { "execve", call(SYS_execve), ALLOW, ALLOW },
    { "execveat", call(SYS_execveat), EPERM_, EPERM_ },
    { "a foreign architecture", call(SYS_read, 0, 0, 0, THERE), KILL, KILL },
#ifdef __x86_64__
    { "a call of the x32 ABI", call(0x40000000L | SYS_read), KILL, KILL },
#endif
    { "a negative number", call(-1), KILL, KILL },
    { "a Unix stream", call(SYS_socket, AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC), ALLOW, ALLOW },
    { "a Unix stream, high bits set", call(SYS_socket, HIGH | AF_UNIX, HIGH | SOCK_STREAM), ALLOW, ALLOW },
    { "Unix packets", call(SYS_socket, AF_UNIX, SOCK_SEQPACKET), ALLOW, ALLOW },
    { "a Unix datagram", call(SYS_socket, AF_UNIX, SOCK_DGRAM), EPERM_, EPERM_ },
    { "a pair of Unix datagrams", call(SYS_socketpair, AF_UNIX, SOCK_DGRAM), EPERM_, EPERM_ },
    { "TCP", call(SYS_socket, AF_INET, SOCK_STREAM), EPERM_, EPERM_ },
    { "TCP over IPv6", call(SYS_socket, AF_INET6, SOCK_STREAM), EPERM_, EPERM_ },
    { "UDP", call(SYS_socket, AF_INET, SOCK_DGRAM), EPERM_, EPERM_ },
    { "vsock", call(SYS_socket, AF_VSOCK, SOCK_STREAM), EPERM_, EPERM_ },
    { "connect", call(SYS_connect), EPERM_, EPERM_ },
    { "accept", call(SYS_accept4), ALLOW, ALLOW },
    { "a thread", call(SYS_clone, thread), ALLOW, ALLOW },
    { "a process", call(SYS_clone, 17 /* SIGCHLD */), EPERM_, EPERM_ },
    { "a thread in a namespace", call(SYS_clone, thread | CLONE_NEWNET), EPERM_, EPERM_ },
    { "clone3", call(435), ENOSYS_, ENOSYS_ },
    { "a signal to itself", call(SYS_tgkill, SELF, SELF, 6), ALLOW, ALLOW },
    { "a signal to another", call(SYS_tgkill, SELF + 1, SELF + 1, 6), EPERM_, EPERM_ },
    { "a signal to its group", call(SYS_kill, 0, 9), EPERM_, EPERM_ },
    { "a signal to all", call(SYS_kill, static_cast<uint64_t>(-1), 9), EPERM_, EPERM_ },
    { "a signal by thread", call(SYS_tkill, SELF, 9), EPERM_, EPERM_ },
    { "its own limits", call(SYS_prlimit64, 0), ALLOW, ALLOW },
    { "another's limits", call(SYS_prlimit64, 1), EPERM_, EPERM_ },
    { "memory", call(SYS_mmap, 0, 4096, PROT_READ | PROT_WRITE), ALLOW, ALLOW },
    { "code from a file", call(SYS_mmap, 0, 4096, PROT_READ | PROT_EXEC), ALLOW, ALLOW },
    { "memory to write to and run", call(SYS_mmap, 0, 4096, PROT_READ | PROT_WRITE | PROT_EXEC), EPERM_, ALLOW },
    { "code that was written", call(SYS_mprotect, 0, 4096, PROT_READ | PROT_EXEC), EPERM_, ALLOW },
    { "memory made read-only", call(SYS_mprotect, 0, 4096, PROT_READ), ALLOW, ALLOW },
    { "a thread's name", call(SYS_prctl, PR_SET_NAME), ALLOW, ALLOW },
    { "outliving the tether", call(SYS_prctl, PR_SET_PDEATHSIG, 0), EPERM_, EPERM_ },
    { "a descriptor's signals", call(SYS_fcntl, 3, F_SETOWN, 1), EPERM_, EPERM_ },
    { "a descriptor's copy", call(SYS_fcntl, 3, F_DUPFD_CLOEXEC), ALLOW, ALLOW },
    { "is it a terminal?", call(SYS_ioctl, 1, TCGETS), ALLOW, ALLOW },
    { "keys for a terminal", call(SYS_ioctl, 1, TIOCSTI), EPERM_, ALLOW },
    { "chmod", call(SYS_fchmodat), EPERM_, EPERM_ },
    { "chown", call(SYS_fchownat), EPERM_, EPERM_ },
    { "a file's times", call(SYS_utimensat), EPERM_, EPERM_ },
    { "a link", call(SYS_symlinkat), EPERM_, EPERM_ },
    { "a folder", call(SYS_mkdirat), EPERM_, ALLOW },
    { "ptrace", call(SYS_ptrace), EPERM_, EPERM_ },
    { "another's memory", call(SYS_process_vm_readv), EPERM_, EPERM_ },
    { "mount", call(SYS_mount), EPERM_, EPERM_ },
    { "unshare", call(SYS_unshare), EPERM_, EPERM_ },
    { "setns", call(SYS_setns), EPERM_, EPERM_ },
    { "bpf", call(SYS_bpf), EPERM_, EPERM_ },
    { "keyctl", call(SYS_keyctl), EPERM_, EPERM_ },
    { "perf", call(SYS_perf_event_open), EPERM_, EPERM_ },
    { "io_uring", call(425), EPERM_, EPERM_ },
    { "userfaultfd", call(SYS_userfaultfd), EPERM_, EPERM_ },
    { "a module", call(SYS_finit_module), EPERM_, EPERM_ },
    { "a session", call(SYS_setsid), EPERM_, EPERM_ },
    { "a group", call(SYS_setpgid), EPERM_, EPERM_ },
    { "another user", call(SYS_setuid), EPERM_, EPERM_ },
    { "another filter", call(SYS_seccomp), EPERM_, EPERM_ },
    { "a call of kernels to come", call(470), ENOSYS_, ENOSYS_ },
};

void each_call_has_its_verdict() {
    for (const bool devices : { false, true }) {
        const std::vector<sock_filter> program = call_filter(SELF, devices);
        for (const Row & row : rows) {
            check::row = std::string(row.what) + (devices ? ", with devices" : "");
            CHECK_EQ(verdict(program, row.made), devices ? row.with_devices : row.alone);
        }
    }
}

// No number, however odd, runs past the program's end, and what no table names is refused.
void every_number_has_a_verdict() {
    const std::vector<sock_filter> program = call_filter(SELF, false);
    size_t                         allowed = 0;
    for (int number = 0; number < 4096; ++number) {
        check::row           = "call " + std::to_string(number);
        const uint32_t given = verdict(program, call(number, ~0ULL, ~0ULL, ~0ULL));
        CHECK(given == ALLOW || given == EPERM_ || given == ENOSYS_);
        allowed += given == ALLOW ? 1 : 0;
    }
    check::row.clear();
    CHECK(allowed > 60 && allowed < 130);
}

void the_kernel_takes_a_program_of_this_length() {
    CHECK(call_filter(SELF, true).size() <= BPF_MAXINSNS);
}

}  // namespace

int main() {
    return check::run({
        TEST(each_call_has_its_verdict),
        TEST(every_number_has_a_verdict),
        TEST(the_kernel_takes_a_program_of_this_length),
    });
}

#else

int main() {
    return check::run({});
}

#endif
