// Plays both ends of one recorded session around a guard. The client says what the recorded one said, with the handles
// and addresses that the guard hands out; the worker answers what the recorded one answered, and expects, byte for byte,
// what that one got, save for what the guard says that it changes.
#pragma once

#include <algorithm>
#include <deque>
#include <functional>
#include <map>
#include <memory>

#include "guard.h"
#include "guard_recording.h"

namespace frames {

class Replayed {
public:
    // How many bytes, at least 1, arrive at once at either side of the guard, of `waiting` that could.
    using Cut = std::function<size_t(size_t waiting)>;

    Replayed(const Recorded & session, Cut cut) : session_(session), cut_(std::move(cut)), guard_(no_limits()) {}

    size_t frames = 0;
    size_t graphs = 0;

    // What was not as recorded; empty if all was.
    std::string run() {
        const std::vector<Entry> & entries = session_.entries;
        for (size_t i = 0; i < entries.size() && complaint_.empty(); ++frames) {
            at_              = i;
            const bool asked = i + 1 < entries.size() && entries[i + 1].is_reply;
            if (entries[i].is_reply) {
                complain("a reply without its request");
                break;
            }
            play(entries[i], asked ? &entries[i + 1] : nullptr);
            i += asked ? 2 : 1;
        }
        if (complaint_.empty() && (!expected_.empty() || !client_.empty() || !replies_.empty())) {
            complain("something never came through");
        }
        return complaint_;
    }

private:
    using Kind = Step::Kind;

    // What the worker is to get next, and what it answers.
    struct Expected {
        Bytes frame;
        Bytes reply;
    };

    struct Buffer {
        uint64_t handle;     // the guard's
        uint64_t base;       // the guard's, once the client knows it
        uint64_t real_base;  // the recorded worker's
        uint64_t size;
    };

    // Larger pieces do not reach the tunnel's guard at once either.
    static constexpr size_t WINDOW_BYTES = 64 * 1024;

    static Limits no_limits() {
        Limits limits;
        limits.memory_bytes = MAX_BUFFER_BYTES;
        return limits;
    }

    void complain(const std::string & what) {
        if (complaint_.empty()) {
            const uint8_t command = session_.entries[at_].command;
            complaint_ = session_.name + ": entry " + std::to_string(at_) + ", " + command_of(command).name + ": " + what;
        }
    }

    void complain_of_refusal() {
        const Finding & found = guard_.finding();
        complain(std::string("refused: ") + name_of(found.refusal) + " (op " + std::to_string(found.op) + ", node " +
                 std::to_string(found.node) + "): " + found.detail);
    }

    void play(const Entry & request, const Entry * answer) {
        graphs += request.command == GRAPH_COMPUTE ? 1 : 0;
        expect(request, answer);
        client_ = client_ + header(request.command, request.length) + translated(request);
        client_.resize(client_.size() + request.length - request.kept.size());
        turn();
        if (complaint_.empty() && !client_.empty()) {
            complain("the guard did not take all of it");
        }
        if (complaint_.empty()) {
            answer == nullptr ? expect_silence() : learn(request, *answer);
        }
        if (request.command == FREE_BUFFER) {
            buffers_.erase(load64(request.kept.data()));
        }
    }

    // --- The worker's side.

    void expect(const Entry & request, const Entry * answer) {
        Bytes payload = request.kept;
        switch (request.command) {
            // The guard knows the answer itself.
            case BUFFER_GET_BASE:
            case SET_TENSOR_HASH: return;
            case HELLO: std::fill(payload.begin(), payload.end(), uint8_t(0)); break;
            case SET_TENSOR: payload[TENSOR_BYTES] = 0; break;  // the cache flag
            case INIT_TENSOR:
                if (!has_room_for_padding(payload)) {
                    return;
                }
                forget_op(&payload[0]);
                break;
            case GET_ALLOC_SIZE: forget_what_is_not_there(payload); break;
            default: break;
        }
        payload.resize(request.length);
        expected_.push_back({ header(request.command, request.length) + payload, answer == nullptr ? Bytes{} : whole(*answer) });
        if (request.command == GRAPH_COMPUTE || request.command == GRAPH_RECOMPUTE) {
            expected_.push_back({ header(DEVICE_COUNT, 0), reply(number(1, 4)) });
        }
        if (request.command == ALLOC_BUFFER && answer != nullptr && load64(answer->kept.data()) != 0) {
            const uint64_t real = load64(answer->kept.data());
            expected_.push_back({ of_buffer(BUFFER_GET_BASE, real), reply(number(base_of(real), 8)) });
            expected_.push_back({ clear(real, 0), {} });
        }
    }

    static Bytes whole(const Entry & answer) {
        Bytes payload = answer.kept;
        payload.resize(answer.length);
        return reply(payload);
    }

    // As the recorded client was told further down.
    uint64_t base_of(uint64_t real_handle) const {
        const std::vector<Entry> & entries = session_.entries;
        for (size_t i = at_; i + 1 < entries.size(); ++i) {
            if (entries[i].command == BUFFER_GET_BASE && !entries[i].is_reply && load64(entries[i].kept.data()) == real_handle) {
                return load64(entries[i + 1].kept.data());
            }
        }
        return uint64_t(1) << 40;
    }

    // CUDA fills rows of quantised tensors up to 512 elements; what would leave the buffer does not reach a worker.
    bool has_room_for_padding(const Bytes & payload) const {
        const Tensor one     = read_tensor(payload.data());
        const Type & type    = type_of(one.type);
        const auto   found   = buffers_.find(one.buffer);
        const Wide   missing = type.block > 1 && one.ne[0] % 512 != 0 ? Wide(512 - one.ne[0] % 512) / type.block * type.bytes : 0;
        return found != buffers_.end() &&
               Wide(one.data) + bytes_of(one) + missing <= Wide(found->second.real_base) + found->second.size;
    }

    static void forget_op(uint8_t * where) { store(where + 52, 0, 4); }

    static void forget_what_is_not_there(Bytes & payload) {
        for (size_t i = 1; i <= MAX_SOURCES; ++i) {
            const auto begin = payload.begin() + static_cast<long>(4 + i * TENSOR_BYTES);
            if (load64(&*begin) == 0) {
                std::fill(begin, begin + static_cast<long>(TENSOR_BYTES), uint8_t(0));
            }
        }
        if (is_empty(read_tensor(&payload[4]))) {
            forget_op(&payload[4]);
        }
    }

    // Compares as the bytes come, for a frame can be large.
    void worker_takes(const uint8_t * data, size_t size) {
        while (size > 0 && complaint_.empty()) {
            if (expected_.empty()) {
                complain("the worker gets more than it got");
                return;
            }
            const Bytes & frame = expected_.front().frame;
            const size_t  here  = std::min(size, frame.size() - taken_);
            if (!std::equal(data, data + here, frame.begin() + static_cast<long>(taken_))) {
                complain("the worker does not get what it got, from byte " + std::to_string(taken_));
                return;
            }
            taken_ += here;
            data += here;
            size -= here;
            if (taken_ == frame.size()) {
                replies_ = replies_ + expected_.front().reply;
                expected_.pop_front();
                taken_ = 0;
            }
        }
    }

    // --- The client's side.

    Bytes translated(const Entry & request) {
        Bytes payload = request.kept;
        if (request.command == BUFFER_GET_BASE || request.command == FREE_BUFFER || request.command == BUFFER_CLEAR) {
            const auto found = buffers_.find(load64(payload.data()));
            if (found != buffers_.end()) {
                store64(payload.data(), found->second.handle);
            }
        }
        for (const size_t at : tensors_in(request)) {
            uint8_t * const where = &payload[at];
            const auto      found = buffers_.find(load64(where + TENSOR_BUFFER_OFFSET));
            if (found != buffers_.end()) {
                const uint64_t data = load64(where + TENSOR_DATA_OFFSET);
                store64(where + TENSOR_BUFFER_OFFSET, found->second.handle);
                store64(where + TENSOR_DATA_OFFSET, data - found->second.real_base + found->second.base);
            }
        }
        return payload;
    }

    void expect_silence() {
        if (!heard_.empty()) {
            complain("the client gets an answer that nobody gave");
        }
    }

    // The answer has come; the guard's numbers in it are the client's from now on.
    void learn(const Entry & request, const Entry & answer) {
        Bytes wanted = whole(answer);
        if (heard_.size() != wanted.size()) {
            complain("an answer of " + std::to_string(heard_.size()) + " bytes");
            return;
        }
        const uint64_t first = heard_.size() >= 16 ? load64(&heard_[8]) : 0;
        const uint64_t real  = wanted.size() >= 16 ? load64(&wanted[8]) : 0;
        switch (request.command) {
            case HELLO: std::fill(wanted.begin() + 12, wanted.end(), uint8_t(0)); break;
            case ALLOC_BUFFER:
                if (real != 0) {
                    buffers_[real] = { first, 0, base_of(real), load64(&wanted[16]) };
                    store64(&wanted[8], first);
                }
                // The worker's own number never comes through.
                if ((first == 0) != (real == 0) || (first == real && real != 0)) {
                    complain("handle " + std::to_string(first));
                }
                break;
            case BUFFER_GET_BASE:
                buffers_[load64(request.kept.data())].base = first;
                if (first % 4096 != real % 4096 || first == real) {
                    complain("base " + std::to_string(first));
                }
                store64(&wanted[8], first);
                break;
            default: break;
        }
        if (heard_ != wanted) {
            complain("an answer that is not the recorded one");
        }
        heard_.clear();
    }

    // --- Between them.

    // Bytes arrive and steps are taken until nothing moves.
    void turn() {
        bool moved = true;
        while (moved && complaint_.empty()) {
            moved = arrive(client_, from_client_);
            moved = arrive(replies_, from_worker_) || moved;
            while (complaint_.empty() && act(from_client_, true)) {
                moved = true;
            }
            while (complaint_.empty() && act(from_worker_, false)) {
                moved = true;
            }
        }
        if (complaint_.empty() && !from_client_.empty()) {
            complain("the guard did not take all of it");
        }
    }

    bool arrive(Bytes & sent, Bytes & front) {
        const size_t waiting = std::min(sent.size() - sent_of(sent), WINDOW_BYTES - std::min(WINDOW_BYTES, front.size()));
        if (waiting == 0) {
            return false;
        }
        size_t &     gone  = &sent == &client_ ? client_sent_ : replies_sent_;
        const size_t here  = std::min(waiting, std::max<size_t>(cut_(waiting), 1));
        const auto   begin = sent.begin() + static_cast<long>(gone);
        front.insert(front.end(), begin, begin + static_cast<long>(here));
        gone += here;
        if (gone == sent.size()) {
            sent.clear();
            gone = 0;
        }
        return true;
    }

    size_t sent_of(const Bytes & sent) const { return &sent == &client_ ? client_sent_ : replies_sent_; }

    bool act(Bytes & front, bool from_client) {
        // A copy of the exact size, so that a sanitizer sees a read or write behind it.
        const std::unique_ptr<uint8_t[]> exact(new uint8_t[front.size()]);
        std::copy(front.begin(), front.end(), exact.get());
        const Step step = from_client ? guard_.from_client(exact.get(), front.size()) : guard_.from_worker(exact.get(), front.size());
        switch (step.kind) {
            case Kind::need_more:
            case Kind::wait: return false;
            case Kind::refuse: complain_of_refusal(); return false;
            case Kind::emit: pass_on(from_client, step.bytes.data(), step.bytes.size()); return true;
            case Kind::answer: pass_on(!from_client, step.bytes.data(), step.bytes.size()); return true;
            case Kind::pass: pass_on(from_client, exact.get(), step.size); break;
            case Kind::drop: break;
        }
        if (step.size == 0 || step.size > front.size()) {
            complain("a step of " + std::to_string(step.size) + " bytes of " + std::to_string(front.size()));
            return false;
        }
        front.erase(front.begin(), front.begin() + static_cast<long>(step.size));
        return true;
    }

    void pass_on(bool to_the_worker, const uint8_t * data, size_t size) {
        if (to_the_worker) {
            worker_takes(data, size);
        } else {
            heard_.insert(heard_.end(), data, data + size);
        }
    }

    const Recorded &           session_;
    Cut                        cut_;
    Guard                      guard_;
    std::string                complaint_;
    size_t                     at_ = 0;    // the entry at hand
    std::map<uint64_t, Buffer> buffers_;   // by the recorded worker's handle
    Bytes                      client_;    // sent and not yet arrived, but for the first `client_sent_`
    Bytes                      replies_;   // likewise
    size_t                     client_sent_  = 0;
    size_t                     replies_sent_ = 0;
    Bytes                      from_client_;  // arrived at the guard
    Bytes                      from_worker_;
    Bytes                      heard_;  // by the client
    std::deque<Expected>       expected_;
    size_t                     taken_ = 0;  // of the first that is expected
};

}  // namespace frames
