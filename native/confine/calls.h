// The table of system calls that a worker may make. How it becomes a filter is seccomp.cpp's business.
#pragma once

#ifdef __linux__

#include <fcntl.h>
#include <linux/sched.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>

#include <cstdint>

namespace rpcmesh::confine {

// Every worker, or only one that computes on a device.
enum class Who { everybody, with_devices };

struct Call {
    uint32_t number;
    Who      who = Who::everybody;
};

// The same number on every architecture since 5.0, and not in every header.
constexpr uint32_t CLONE3      = 435;
constexpr uint32_t CLOSE_RANGE = 436;
constexpr uint32_t FACCESSAT2  = 439;
// Above this are calls of kernels to come: a C library that tries one goes on without it only if there is no such call.
constexpr uint32_t NEWEST = 460;

constexpr Call calls[] = {
    // To run: memory, threads, time, signals to itself.
    { SYS_brk },
    { SYS_munmap },
    { SYS_mremap },
    { SYS_madvise },
    { SYS_mincore },
    { SYS_membarrier },
    { SYS_mlock },
    { SYS_munlock },
    { SYS_futex },
    { SYS_set_robust_list },
    { SYS_get_robust_list },
    { SYS_set_tid_address },
    { SYS_rseq },
    { SYS_sched_yield },
    { SYS_sched_getaffinity },
    { SYS_sched_getparam },
    { SYS_sched_getscheduler },
    { SYS_gettid },
    { SYS_getpid },
    { SYS_getppid },
    { SYS_getuid },
    { SYS_geteuid },
    { SYS_getgid },
    { SYS_getegid },
    { SYS_exit },
    { SYS_exit_group },
    { SYS_restart_syscall },
    { SYS_rt_sigaction },
    { SYS_rt_sigprocmask },
    { SYS_rt_sigreturn },
    { SYS_rt_sigtimedwait },
    { SYS_sigaltstack },
    { SYS_clock_gettime },
    { SYS_clock_getres },
    { SYS_clock_nanosleep },
    { SYS_nanosleep },
    { SYS_gettimeofday },
    { SYS_getcpu },
    { SYS_getrusage },
    { SYS_getrandom },
    { SYS_uname },
    { SYS_sysinfo },
    // The worker's own start, and nothing but the worker and the loader: Landlock's right to execute says so.
    { SYS_execve },
    // Files: which, Landlock says. No right, owner or time of one can be changed.
    { SYS_openat },
    { SYS_close },
    { CLOSE_RANGE },
    { SYS_read },
    { SYS_readv },
    { SYS_pread64 },
    { SYS_write },
    { SYS_writev },
    { SYS_lseek },
    { SYS_fstat },
    { SYS_newfstatat },
    { SYS_statx },
    { SYS_statfs },
    { SYS_fstatfs },
    { SYS_faccessat },
    { FACCESSAT2 },
    { SYS_readlinkat },
    { SYS_getdents64 },
    { SYS_getcwd },
    { SYS_unlinkat },
    { SYS_renameat },
    { SYS_renameat2 },
    { SYS_umask },
    { SYS_dup },
    { SYS_dup3 },
    { SYS_pipe2 },
    { SYS_eventfd2 },
    { SYS_ppoll },
    { SYS_pselect6 },
    { SYS_epoll_create1 },
    { SYS_epoll_ctl },
    { SYS_epoll_pwait },
    { SYS_fadvise64 },
    // Its socket: whoever connects is served. It connects to nobody.
    { SYS_bind },
    { SYS_listen },
    { SYS_accept },
    { SYS_accept4 },
    { SYS_getsockname },
    { SYS_getpeername },
    { SYS_setsockopt },
    { SYS_getsockopt },
    { SYS_shutdown },
    { SYS_recvfrom },
    { SYS_recvmsg },
    { SYS_sendto },
    { SYS_sendmsg },
    // What drivers need besides.
    { SYS_ioctl, Who::with_devices },
    { SYS_mmap, Who::with_devices },
    { SYS_mprotect, Who::with_devices },
    { SYS_mlock2, Who::with_devices },
    { SYS_msync, Who::with_devices },
    { SYS_get_mempolicy, Who::with_devices },
    { SYS_mbind, Who::with_devices },
    { SYS_memfd_create, Who::with_devices },
    { SYS_ftruncate, Who::with_devices },
    { SYS_fallocate, Who::with_devices },
    { SYS_flock, Who::with_devices },
    { SYS_fsync, Who::with_devices },
    { SYS_pwrite64, Who::with_devices },
    { SYS_mkdirat, Who::with_devices },
    { SYS_timerfd_create, Who::with_devices },
    { SYS_timerfd_settime, Who::with_devices },
    { SYS_sched_get_priority_max, Who::with_devices },
    { SYS_sched_get_priority_min, Who::with_devices },
#ifdef __x86_64__
    // Older forms of the above, which newer architectures never had.
    { SYS_open },
    { SYS_stat },
    { SYS_lstat },
    { SYS_access },
    { SYS_readlink },
    { SYS_unlink },
    { SYS_rename },
    { SYS_dup2 },
    { SYS_pipe },
    { SYS_poll },
    { SYS_select },
    { SYS_epoll_create },
    { SYS_epoll_wait },
    { SYS_time },
    { SYS_getrlimit },
    // Where the thread's own memory begins.
    { SYS_arch_prctl },
    { SYS_mkdir, Who::with_devices },
#endif
};

// The low half of an argument, of which the bits in `mask` must equal one of the values.
struct Condition {
    int                   argument;
    uint32_t              mask;
    const uint32_t *      values;
    uint32_t              count;
};

template <uint32_t N> constexpr Condition is(int argument, const uint32_t (&values)[N], uint32_t mask = 0xffffffff) {
    return { argument, mask, values, N };
}

// A call that may be made with some arguments only. Both conditions must hold.
struct Narrow {
    uint32_t  number;
    Condition first;
    Condition second = { 0, 0, nullptr, 0 };
};

constexpr uint32_t NEW_NAMESPACES =
    CLONE_NEWNS | CLONE_NEWCGROUP | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWUSER | CLONE_NEWPID | CLONE_NEWNET;

constexpr uint32_t unix_family[]  = { AF_UNIX };
// Those that must connect first. A datagram can be sent to a named socket without. CUDA starts with a sequence of packets.
constexpr uint32_t connected[]    = { SOCK_STREAM, SOCK_SEQPACKET };
constexpr uint32_t thread[]       = { CLONE_THREAD };
constexpr uint32_t none[]         = { 0 };
constexpr uint32_t write_or_run[] = { 0, PROT_WRITE, PROT_EXEC };
constexpr uint32_t thread_names[] = { PR_SET_NAME, PR_GET_NAME, 0x53564d41 /* PR_SET_VMA: a name for memory */ };
// Not those that choose who gets a signal about a descriptor.
constexpr uint32_t descriptor_words[] = { F_DUPFD, F_GETFD, F_SETFD, F_GETFL, F_SETFL, F_GETLK, F_SETLK, F_SETLKW, 1030 /* F_DUPFD_CLOEXEC */,
                                          1033 /* F_ADD_SEALS */, 1034 /* F_GET_SEALS */ };
constexpr uint32_t descriptor_asks[]  = { TCGETS, FIONREAD, FIONBIO, FIOCLEX };

constexpr Narrow narrow[] = {
    { SYS_socket, is(0, unix_family), is(1, connected, 0xf) },
    { SYS_socketpair, is(0, unix_family), is(1, connected, 0xf) },
    { SYS_clone, is(0, thread, CLONE_THREAD | NEW_NAMESPACES) },
    // Memory can be written to or run, and not first the one and then the other.
    { SYS_mmap, is(2, write_or_run, PROT_WRITE | PROT_EXEC) },
    { SYS_mprotect, is(2, none, PROT_EXEC) },
    { SYS_prctl, is(0, thread_names) },
    { SYS_fcntl, is(1, descriptor_words) },
    { SYS_ioctl, is(1, descriptor_asks) },
};

}  // namespace rpcmesh::confine

#endif
