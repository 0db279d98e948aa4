// Tries what a worker that was taken over would try. Started by the launcher in place of the worker, or without it.
// Each argument is WHAT or WHAT:OPERAND; for each, one line is printed: the argument, a blank, and ok or the errno's name.

#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <string>

namespace {

using Operand = const std::string &;

// What a system call returned, as the errno of its failure or 0.
int outcome(long returned) {
    return returned >= 0 ? 0 : errno;
}

int read_file(Operand path) {
    char      byte;
    const int fd = open(path.c_str(), O_RDONLY);
    return fd < 0 ? errno : outcome(read(fd, &byte, 1));
}

int list(Operand path) {
    return outcome(open(path.c_str(), O_RDONLY | O_DIRECTORY));
}

int write_file(Operand path) {
    return outcome(open(path.c_str(), O_WRONLY));
}

int create(Operand path) {
    return outcome(open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL, 0600));
}

int link_in(Operand path) {
    return outcome(symlink("/etc/passwd", path.c_str()));
}

sockaddr_un named(Operand path) {
    sockaddr_un address = {};
    address.sun_family  = AF_UNIX;
    strncpy(address.sun_path, path.c_str(), sizeof(address.sun_path) - 1);
    return address;
}

int connect_to(Operand path) {
    const sockaddr_un address = named(path);
    const int         fd      = socket(AF_UNIX, SOCK_STREAM, 0);
    return fd < 0 ? errno : outcome(connect(fd, reinterpret_cast<const sockaddr *>(&address), sizeof(address)));
}

int listen_at(Operand path) {
    const sockaddr_un address = named(path);
    const int         fd      = socket(AF_UNIX, SOCK_STREAM, 0);
    if (fd < 0 || bind(fd, reinterpret_cast<const sockaddr *>(&address), sizeof(address)) != 0) {
        return errno;
    }
    return outcome(listen(fd, 1));
}

int fork_one(Operand) {
    const pid_t pid = fork();
    if (pid == 0) {
        _exit(0);
    }
    if (pid < 0) {
        return errno;
    }
    waitpid(pid, nullptr, 0);
    return 0;
}

int run(Operand path) {
    // What runs in its place says nothing, and so does not say "ok"; without walls it is the end of the probe.
    const pid_t pid = fork();
    if (pid > 0) {
        int status = 0;
        waitpid(pid, &status, 0);
        return WEXITSTATUS(status);
    }
    char       name[]  = "sh";
    char       option[] = "-c";
    char       word[]  = "exit 0";
    char *     argv[]  = { name, option, word, nullptr };
    execv(path.c_str(), argv);
    const int error = errno;
    if (pid == 0) {
        _exit(error);
    }
    return error;
}

pid_t pid_of(Operand text) {
    return static_cast<pid_t>(atol(text.c_str()));
}

int trace(Operand pid) {
    const int error = outcome(ptrace(PTRACE_SEIZE, pid_of(pid), nullptr, nullptr));
    if (error == 0) {
        ptrace(PTRACE_DETACH, pid_of(pid), nullptr, nullptr);
    }
    return error;
}

int thread_runs(Operand) {
    pthread_t thread;
    const int error = pthread_create(&thread, nullptr, [](void *) -> void * { return nullptr; }, nullptr);
    return error != 0 ? error : pthread_join(thread, nullptr);
}

int map(int protection, int later) {
    void * page = mmap(nullptr, 4096, protection, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (page == MAP_FAILED) {
        return errno;
    }
    return outcome(mprotect(page, 4096, later));
}

int open_many(Operand count) {
    for (long i = 0; i < atol(count.c_str()); ++i) {
        if (dup(0) < 0) {
            const int error = errno;
            for (int fd = 10; fd < 2000; ++fd) {
                close(fd);
            }
            return error;
        }
    }
    return 0;
}

int take_memory(Operand mib) {
    const size_t size = static_cast<size_t>(atol(mib.c_str())) << 20;
    void *       all  = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    return all == MAP_FAILED ? errno : outcome(munmap(all, size));
}

int raise_core_limit(Operand) {
    const rlimit limit = { 4096, 4096 };
    return outcome(setrlimit(RLIMIT_CORE, &limit));
}

struct Attempt {
    const char * what;
    int (*make)(Operand operand);
};

const Attempt attempts[] = {
    { "read", read_file },
    { "list", list },
    { "write", write_file },
    { "create", create },
    { "symlink", link_in },
    { "tcp", [](Operand) { return outcome(socket(AF_INET, SOCK_STREAM, 0)); } },
    { "tcp6", [](Operand) { return outcome(socket(AF_INET6, SOCK_STREAM, 0)); } },
    { "udp", [](Operand) { return outcome(socket(AF_INET, SOCK_DGRAM, 0)); } },
    { "netlink", [](Operand) { return outcome(socket(AF_NETLINK, SOCK_RAW, 0)); } },
    { "datagram", [](Operand) { return outcome(socket(AF_UNIX, SOCK_DGRAM, 0)); } },
    { "connect", connect_to },
    { "listen", listen_at },
    { "fork", fork_one },
    { "run", run },
    { "ptrace", trace },
    { "kill", [](Operand pid) { return outcome(kill(pid_of(pid), 0)); } },
    { "tgkill", [](Operand pid) { return outcome(syscall(SYS_tgkill, pid_of(pid), pid_of(pid), 0)); } },
    { "signal-itself", [](Operand) { return outcome(syscall(SYS_tgkill, getpid(), gettid(), 0)); } },
    { "thread", thread_runs },
    { "map-write-and-run", [](Operand) { return map(PROT_READ | PROT_WRITE | PROT_EXEC, PROT_READ); } },
    { "map-write-then-run", [](Operand) { return map(PROT_READ | PROT_WRITE, PROT_READ | PROT_EXEC); } },
    { "map-write", [](Operand) { return map(PROT_READ | PROT_WRITE, PROT_READ); } },
    { "open-many", open_many },
    { "memory-mib", take_memory },
    { "raise-core-limit", raise_core_limit },
    { "chmod", [](Operand path) { return outcome(chmod(path.c_str(), 0700)); } },
    { "chown", [](Operand path) { return outcome(chown(path.c_str(), getuid(), getgid())); } },
    { "utime", [](Operand path) { return outcome(utimensat(AT_FDCWD, path.c_str(), nullptr, 0)); } },
    { "setpgid", [](Operand) { return outcome(setpgid(0, 0)); } },
    { "setuid", [](Operand uid) { return outcome(setuid(static_cast<uid_t>(atol(uid.c_str())))); } },
    { "unshare", [](Operand) { return outcome(unshare(CLONE_NEWUSER)); } },
    { "forget-the-tether", [](Operand) { return outcome(prctl(PR_SET_PDEATHSIG, 0)); } },
    { "keyctl", [](Operand) { return outcome(syscall(SYS_keyctl, 0, -3, 0)); } },
    { "userfaultfd", [](Operand) { return outcome(syscall(SYS_userfaultfd, 0)); } },
    { "io-uring", [](Operand) { return outcome(syscall(425, 1, nullptr)); } },
    { "bpf", [](Operand) { return outcome(syscall(SYS_bpf, 0, nullptr, 0)); } },
    { "call-of-the-future", [](Operand) { return outcome(syscall(500)); } },
    // Not made by accident: the bit marks a call of another ABI.
    { "foreign-call", [](Operand) { return outcome(syscall(0x40000000L | SYS_getpid)); } },
};

}  // namespace

int main(int argc, char ** argv) {
    for (int i = 1; i < argc; ++i) {
        const std::string argument = argv[i];
        const size_t      colon    = argument.find(':');
        const std::string operand  = colon == std::string::npos ? "" : argument.substr(colon + 1);
        for (const Attempt & attempt : attempts) {
            if (argument.substr(0, colon) == attempt.what) {
                const int error = attempt.make(operand);
                std::printf("%s %s\n", argv[i], error == 0 ? "ok" : strerrorname_np(error));
                std::fflush(stdout);
            }
        }
    }
    return 0;
}
