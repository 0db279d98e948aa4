#include "process.h"

#include <fcntl.h>
#include <pthread.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <utility>

namespace rpcmesh {

namespace {

// A signal handler may only write to a descriptor; which one must be known to it.
int signal_pipe = -1;

void on_signal(int number) {
    const int  saved = errno;
    const char byte  = static_cast<char>(number);
    if (write(signal_pipe, &byte, 1) < 0) {
        // A full pipe: the same signal is on its way already.
    }
    errno = saved;
}

class SignalsBlocked {
public:
    SignalsBlocked() {
        sigset_t all;
        sigfillset(&all);
        pthread_sigmask(SIG_SETMASK, &all, &before_);
    }
    SignalsBlocked(const SignalsBlocked &)             = delete;
    SignalsBlocked & operator=(const SignalsBlocked &) = delete;
    ~SignalsBlocked() { pthread_sigmask(SIG_SETMASK, &before_, nullptr); }

private:
    sigset_t before_;
};

}  // namespace

void handle_signals(int pipe) {
    signal_pipe             = pipe;
    struct sigaction action = {};
    action.sa_handler       = on_signal;
    action.sa_flags         = SA_RESTART;
    for (const int number : { SIGTERM, SIGINT, SIGHUP }) {
        sigaction(number, &action, nullptr);
    }
    std::signal(SIGPIPE, SIG_IGN);
}

std::thread start_thread(std::function<void()> body) {
    const SignalsBlocked blocked;
    return std::thread(std::move(body));
}

Fd open_spare() {
    return Fd(open("/dev/null", O_RDONLY | O_CLOEXEC));
}

void raise_descriptor_limit(int max_connections) {
    rlimit       limit  = {};
    const rlim_t wanted = static_cast<rlim_t>(max_connections) * 2 * 4 + 64;
    if (getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur < wanted) {
        limit.rlim_cur = std::min(wanted, limit.rlim_max);
        setrlimit(RLIMIT_NOFILE, &limit);
    }
}

}  // namespace rpcmesh
