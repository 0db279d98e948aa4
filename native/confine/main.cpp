// rpcmesh-confine: gives up what a worker does not need, says what is in force, and becomes the worker.

#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>

#include "confine/confinement.h"
#include "confine/options.h"

namespace {

constexpr int EXIT_USAGE        = 2;
constexpr int EXIT_NOT_CONFINED = 78;

void say(const std::string & line) {
    std::puts(line.c_str());
    std::fflush(stdout);
}

void become_worker(const std::vector<std::string> & command) {
    std::vector<char *> argv;
    for (const std::string & argument : command) {
        argv.push_back(const_cast<char *>(argument.c_str()));
    }
    argv.push_back(nullptr);
    execv(argv.front(), argv.data());
}

}  // namespace

int main(int argc, char ** argv) {
    rpcmesh::confine::Options options;
    std::string               error;
    if (!rpcmesh::confine::parse_options(argc, argv, options, error)) {
        std::fprintf(stderr, "rpcmesh-confine: %s\n%s", error.c_str(), rpcmesh::confine::usage);
        return EXIT_USAGE;
    }
    rpcmesh::confine::Confinement confinement(options);
    error = confinement.put_in_force();
    if (error.empty()) {
        say(confinement.report());
        become_worker(options.worker);
        error = options.worker.front() + ": " + std::strerror(errno);
    }
    say(rpcmesh::confine::refusal(error));
    return EXIT_NOT_CONFINED;
}
