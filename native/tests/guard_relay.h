// Stands where the tunnel's pump stands: between a client's bytes, a guard and a fake worker, with the bytes of both
// directions cut as the test likes.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "check.h"
#include "guard.h"
#include "guard_worker.h"

namespace frames {

using Kind = Step::Kind;

inline size_t all_at_once(size_t waiting) {
    return waiting;
}

class Relay {
public:
    // How many of the bytes that wait at an end arrive at once, at least 1.
    using Cut = std::function<size_t(size_t waiting)>;

    explicit Relay(const Limits & limits = Limits{}, Cut cut = all_at_once) : guard(limits), cut_(std::move(cut)) {}

    Guard      guard;
    FakeWorker worker;
    Bytes      to_worker;
    Bytes      to_client;
    bool       keep_to_worker = true;
    // Steps that made no sense: more than there was, or nothing at all again and again.
    std::vector<std::string> faults;

    // The client sends, and everything runs until nothing moves.
    void send(const Bytes & bytes) {
        size_t sent = 0;
        do {
            const size_t here = std::min(bytes.size() - sent, bytes.empty() ? 0 : std::max<size_t>(cut_(bytes.size() - sent), 1));
            client_.insert(client_.end(), bytes.begin() + static_cast<long>(sent), bytes.begin() + static_cast<long>(sent + here));
            sent += here;
            while (turn()) {
            }
        } while (sent < bytes.size());
    }

    // What the client gets for `bytes`.
    Bytes ask(const Bytes & bytes) {
        const size_t before = to_client.size();
        send(bytes);
        return Bytes(to_client.begin() + static_cast<long>(before), to_client.end());
    }

    Refusal refusal() const { return guard.finding().refusal; }
    // Of a client that was told to wait, or whose frame is not whole.
    size_t  held() const { return client_.size(); }
    bool    sound() const { return faults.empty() && worker.faults.empty(); }
    std::string complaint() const { return !faults.empty() ? faults[0] : worker.faults.empty() ? "" : worker.faults[0]; }

    // Asks for both directions until neither has more to do, and does what the guard says. Whether anything moved.
    bool turn() {
        bool moved = false;
        if (!worker.replies.empty()) {
            const size_t here = std::min(worker.replies.size(), std::max<size_t>(cut_(worker.replies.size()), 1));
            replies_.insert(replies_.end(), worker.replies.begin(), worker.replies.begin() + static_cast<long>(here));
            worker.replies.erase(worker.replies.begin(), worker.replies.begin() + static_cast<long>(here));
            moved = true;
        }
        while (act(client_, true)) {
            moved = true;
        }
        while (act(replies_, false)) {
            moved = true;
        }
        return moved;
    }

private:
    bool act(Bytes & front, bool from_client) {
        // A copy of the exact size, so that a sanitizer sees a read or write behind it.
        const std::unique_ptr<uint8_t[]> exact(new uint8_t[front.size()]);
        std::copy(front.begin(), front.end(), exact.get());
        const Step step = from_client ? guard.from_client(exact.get(), front.size()) : guard.from_worker(exact.get(), front.size());
        if (step.kind != Kind::emit && step.kind != Kind::answer && !step.bytes.empty()) {
            faults.push_back("bytes with a step that has none");
        }
        switch (step.kind) {
            case Kind::need_more:
            case Kind::wait:
            case Kind::refuse: return false;
            case Kind::emit: forward(from_client, step.bytes.data(), step.bytes.size()); return advanced(0, step.bytes.size());
            case Kind::answer: forward(!from_client, step.bytes.data(), step.bytes.size()); return advanced(0, step.bytes.size());
            case Kind::pass:
            case Kind::drop: break;
        }
        if (step.size > front.size()) {
            faults.push_back("a step larger than what there was");
            return false;
        }
        if (step.kind == Kind::pass) {
            forward(from_client, exact.get(), step.size);
        }
        front.erase(front.begin(), front.begin() + static_cast<long>(step.size));
        return advanced(step.size, 0);
    }

    bool advanced(size_t used, size_t sent) {
        if (used + sent == 0) {
            faults.push_back("a step of nothing");
        }
        return used + sent > 0;
    }

    void forward(bool to_the_worker, const uint8_t * data, size_t size) {
        if (to_the_worker) {
            worker.take(data, size);
        }
        if (!to_the_worker || keep_to_worker) {
            Bytes & out = to_the_worker ? to_worker : to_client;
            out.insert(out.end(), data, data + size);
        }
    }

    Cut   cut_;
    Bytes client_;
    Bytes replies_;
};

}  // namespace frames
