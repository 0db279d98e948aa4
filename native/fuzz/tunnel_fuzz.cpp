// Looks for bytes that make the tunnel forward anything but what the guard alone would, or get stuck: a whole session through
// the pump, between sockets, in pieces. And for lines that the routes file and the command line stumble over.
#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <random>
#include <thread>
#include <utility>

#include "guard_program.h"
#include "hello.h"
#include "input.h"
#include "options.h"
#include "pump.h"

namespace {

using namespace frames;
using fuzz::expect;
using fuzz::Input;

// Far longer than a busy machine takes.
constexpr int STUCK_MS = 30000;

Limits limits() {
    Limits limits;
    limits.memory_bytes = 1 << 20;
    limits.read_bytes   = 1 << 16;
    limits.devices      = FakeWorker::DEVICES;
    return limits;
}

struct Pair {
    rpcmesh::Fd ours;     // the client's end, or the worker's
    rpcmesh::Fd tunnels;
};

// Small buffers, so that writes are cut too.
Pair connected() {
    int        ends[2];
    const int  bytes = 4096;
    const bool made  = socketpair(AF_UNIX, SOCK_STREAM, 0, ends) == 0;
    expect(made, "no sockets");
    for (const int end : ends) {
        fcntl(end, F_SETFL, fcntl(end, F_GETFL) | O_NONBLOCK);
        setsockopt(end, SOL_SOCKET, SO_SNDBUF, &bytes, sizeof(bytes));
    }
    return { rpcmesh::Fd(ends[0]), rpcmesh::Fd(ends[1]) };
}

// Bytes that go out in pieces, and then an end.
class Sender {
public:
    Sender(int fd, std::minstd_rand & random) : fd_(fd), random_(random) {}

    void add(const Bytes & bytes) { bytes_.insert(bytes_.end(), bytes.begin(), bytes.end()); }
    void end() { ending_ = true; }
    bool writes() const { return !ended_ && (sent_ < bytes_.size() || ending_); }

    void write_some() {
        const size_t  here = std::min<size_t>(bytes_.size() - sent_, 1 + random_() % 3000);
        const ssize_t sent = here == 0 ? 0 : rpcmesh::send_some(fd_, bytes_.data() + sent_, here);
        sent_ += sent > 0 ? static_cast<size_t>(sent) : 0;
        const bool hung_up = sent < 0 && errno != EAGAIN && errno != EWOULDBLOCK;
        if (hung_up || (ending_ && sent_ == bytes_.size())) {
            shutdown(fd_, SHUT_WR);
            ended_ = true;
        }
    }

private:
    int                fd_;
    std::minstd_rand & random_;
    Bytes              bytes_;
    size_t             sent_   = 0;
    bool               ending_ = false;
    bool               ended_  = false;
};

// Appends what is there. False at the end.
bool read_some(int fd, Bytes & into) {
    uint8_t       buffer[4096];
    const ssize_t got = rpcmesh::receive_some(fd, buffer, sizeof(buffer));
    into.insert(into.end(), buffer, buffer + std::max<ssize_t>(got, 0));
    return got > 0 || (got < 0 && (errno == EAGAIN || errno == EWOULDBLOCK));
}

// The tunnel as session.cpp runs it behind TLS, with a client that sends `sent` in pieces and leaves.
class Tunnelled {
public:
    explicit Tunnelled(uint32_t seed) : random_(seed) {}

    FakeWorker     worker;
    Bytes          to_worker;
    Bytes          to_client;
    rpcmesh::Ended ended;

    // `replies`: what the worker says whatever it is asked; null where it is one that answers.
    void run(Bytes sent, const Bytes * replies) {
        rpcmesh::Early early;
        size_t         begun = 0;
        while (!guard_.greeted() && begun < sent.size()) {
            const size_t here = std::min<size_t>(sent.size() - begun, 1 + random_() % 40);
            early.bytes.insert(early.bytes.end(), sent.begin() + static_cast<long>(begun), sent.begin() + static_cast<long>(begun + here));
            begun += here;
            if (rpcmesh::look_for_hello(guard_, early) != rpcmesh::Reason::none) {
                ended.reason = rpcmesh::Reason::hello_invalid;
                return;
            }
        }
        if (!guard_.greeted()) {
            return;
        }
        sent.erase(sent.begin(), sent.begin() + static_cast<long>(begun));
        Sender client(client_.ours.get(), random_);
        Sender replier(worker_.ours.get(), random_);
        client.add(sent);
        client.end();
        if (replies != nullptr) {
            replier.add(*replies);
            replier.end();
        }
        std::thread tunnel([&] { pump(early); });
        serve(client, replier, replies == nullptr);
        tunnel.join();
        while (read_some(client_.ours.get(), to_client)) {
        }
        take(replies == nullptr);
    }

private:
    void pump(const rpcmesh::Early & early) {
        rpcmesh::Session        session;
        rpcmesh::End            far(std::move(client_.tunnels));
        rpcmesh::End            near(std::move(worker_.tunnels));
        const rpcmesh::Patience patience = { STUCK_MS, STUCK_MS, STUCK_MS, STUCK_MS };
        ended                            = rpcmesh::pump(far, near, early, &guard_, session, patience);
    }

    // Until the pump has closed both ends.
    void serve(Sender & client, Sender & replier, bool answers) {
        bool client_open = true;
        bool worker_open = true;
        while (client_open || worker_open) {
            pollfd watched[2] = { watch(client_.ours.get(), client_open, client), watch(worker_.ours.get(), worker_open, replier) };
            const int ready = poll(watched, 2, STUCK_MS);
            // libFuzzer looks at its watch by a signal.
            if (ready < 0 && errno == EINTR) {
                continue;
            }
            expect(ready > 0, "the pump is stuck");
            if ((watched[0].revents & POLLOUT) != 0) {
                client.write_some();
            }
            if ((watched[0].revents & ~POLLOUT) != 0) {
                client_open = read_some(client_.ours.get(), to_client);
            }
            if ((watched[1].revents & POLLOUT) != 0) {
                replier.write_some();
            }
            if ((watched[1].revents & ~POLLOUT) != 0) {
                worker_open = take(answers);
                if (answers) {
                    replier.add(std::exchange(worker.replies, {}));
                }
                if (!worker_open) {
                    replier.end();
                }
            }
        }
        // A worker that saw its client leave does the same.
        while (replier.writes()) {
            replier.write_some();
        }
    }

    static pollfd watch(int fd, bool open, const Sender & sender) {
        return { open || sender.writes() ? fd : -1, static_cast<short>((open ? POLLIN : 0) | (sender.writes() ? POLLOUT : 0)), 0 };
    }

    bool take(bool answers) {
        const size_t before = to_worker.size();
        const bool   open   = read_some(worker_.ours.get(), to_worker);
        if (answers) {
            worker.take(to_worker.data() + before, to_worker.size() - before);
        }
        return open;
    }

    std::minstd_rand random_;
    Guard            guard_{ limits() };
    Pair             client_ = connected();
    Pair             worker_ = connected();
};

bool begins_with(const Bytes & whole, const Bytes & part) {
    return part.size() <= whole.size() && std::equal(part.begin(), part.end(), whole.begin());
}

// The same bytes as between the guard alone and a worker.
void run_session(Input & input) {
    const uint32_t seed   = input.below(1 << 16);
    const uint32_t spoilt = 50 * input.below(4);
    Program        program([&](uint32_t below) { return input.below(below); }, spoilt);
    Relay          alone(limits());
    program.run(alone, 2 + input.below(30));
    Tunnelled tunnelled(seed);
    tunnelled.run(program.sent, nullptr);
    expect(tunnelled.worker.faults.empty(), "a worker would stumble", tunnelled.worker.faults.empty() ? "" : tunnelled.worker.faults[0]);
    expect(begins_with(alone.to_worker, tunnelled.to_worker), "the worker was sent something else");
    expect(begins_with(alone.to_client, tunnelled.to_client), "the client was sent something else");
    if (!alone.guard.finding()) {
        expect(tunnelled.ended.reason == rpcmesh::Reason::peer_closed, "an end out of order", rpcmesh::name_of(tunnelled.ended.reason));
        expect(alone.to_worker.size() == tunnelled.to_worker.size(), "the worker was not sent everything");
        expect(alone.to_client.size() == tunnelled.to_client.size(), "the client was not sent everything");
    }
}

// A worker that says anything, to a client that is mostly right.
void run_replies(Input & input) {
    const uint32_t seed = input.below(1 << 16);
    Program        program([&](uint32_t below) { return input.below(below); }, 0);
    Relay          alone(limits());
    program.run(alone, 2 + input.below(6));
    const Bytes replies = (input.below(2) == 0 ? reply(Bytes{ 7, 0, 0, 0 } + Bytes(CAPS_BYTES)) : Bytes()) + input.rest();
    Tunnelled   tunnelled(seed);
    tunnelled.run(program.sent, &replies);
}

// A client that sends anything.
void run_client(Input & input) {
    const uint32_t seed = input.below(1 << 16);
    const Bytes    sent = (input.below(2) == 0 ? hello() : Bytes()) + input.rest();
    Tunnelled      tunnelled(seed);
    tunnelled.run(sent, nullptr);
    expect(tunnelled.worker.faults.empty(), "a worker would stumble", tunnelled.worker.faults.empty() ? "" : tunnelled.worker.faults[0]);
}

void run_text(Input & input) {
    const auto        mode  = static_cast<rpcmesh::Mode>(input.below(3));
    const Bytes       bytes = input.rest();
    const std::string text(bytes.begin(), bytes.end());
    std::string       error;
    const auto        routes = rpcmesh::parse_routes(mode, text, error);
    expect(error.empty() || routes.empty(), "half of a routes file was taken");
    std::vector<std::string> words = { "rpcmesh-tunnel", mode == rpcmesh::Mode::ingress ? "ingress" : "egress" };
    for (size_t from = 0, to = 0; from <= text.size(); from = to + 1) {
        to = std::min(text.find_first_of(std::string("\n\0", 2), from), text.size());
        words.push_back(text.substr(from, to - from));
    }
    std::vector<const char *> arguments;
    for (const std::string & word : words) {
        arguments.push_back(word.c_str());
    }
    rpcmesh::Options options;
    std::string      complaint;
    const bool       taken = rpcmesh::parse_options(static_cast<int>(arguments.size()), arguments.data(), options, complaint);
    expect(taken == complaint.empty(), "options were refused without a word, or taken with one");
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t * data, size_t size) {
    Input input(data, size);
    switch (input.below(8)) {
        case 0: run_text(input); break;
        case 1: run_replies(input); break;
        case 2: run_client(input); break;
        default: run_session(input); break;
    }
    return 0;
}
