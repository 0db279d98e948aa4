// A worker as ggml-rpc.cpp is one, without memory behind its buffers: it replies what is asked, and writes down as a
// fault whatever the real one would assert on, follow out of a buffer, or cut the connection for.
#pragma once

#include <algorithm>
#include <map>
#include <string>
#include <vector>

#include "guard_frames.h"

namespace frames {

class FakeWorker {
public:
    struct Buffer {
        uint64_t base;
        uint64_t size;
    };

    struct Request {
        uint8_t command;
        Bytes   payload;  // of SET_TENSOR the head only
    };

    static constexpr uint32_t DEVICES = 2;

    std::vector<std::string>   faults;
    std::vector<Request>       requests;
    std::map<uint64_t, Buffer> buffers;  // by handle
    Bytes                      replies;  // that nobody has read yet
    uint64_t                   memory     = uint64_t(1) << 40;
    uint64_t                   set_bytes  = 0;
    bool                       keep_requests = true;

    void take(const uint8_t * data, size_t size) {
        while (size > 0) {
            const size_t here = std::min<uint64_t>(size, wanted());
            if (passing_ > 0) {
                passing_ -= here;
                set_bytes += here;
            } else {
                frame_.insert(frame_.end(), data, data + here);
                if (wanted() == 0) {
                    serve();
                }
            }
            data += here;
            size -= here;
        }
    }

    // Whether what came so far ends with a frame.
    bool between_frames() const { return frame_.empty() && passing_ == 0; }

    size_t count(uint8_t command) const {
        return static_cast<size_t>(std::count_if(requests.begin(), requests.end(), [&](const Request & r) { return r.command == command; }));
    }
    const Request & last() const { return requests.back(); }
    // Every number that only the worker may know.
    bool is_secret(uint64_t value) const { return value >> 20 == HANDLES >> 20 || value >> 28 == BASES >> 28; }

private:
    static constexpr uint32_t CPY = 34, RESHAPE = 36, TRANSPOSE = 39, FIRST_WITH_POINTER = 92, LAST_WITH_POINTER = 95;
    static constexpr uint64_t HANDLES = 0x5555c0de0000;
    static constexpr uint64_t BASES   = 0x7fc05ec00000;

    uint64_t wanted() const {
        if (passing_ > 0) {
            return passing_;
        }
        if (frame_.size() < REQUEST_HEADER_BYTES) {
            return REQUEST_HEADER_BYTES - frame_.size();
        }
        const uint64_t length = load64(&frame_[1]);
        return REQUEST_HEADER_BYTES + (frame_[0] == SET_TENSOR ? std::min<uint64_t>(length, SET_HEAD_BYTES) : length) - frame_.size();
    }

    void fault(const std::string & what) { faults.push_back((frame_[0] < COMMAND_COUNT ? command_of(frame_[0]).name : "?") + std::string(": ") + what); }

    void answer(const Bytes & payload) { replies = std::move(replies) + reply(payload); }

    void expect_device(uint32_t device) {
        if (device >= DEVICES) {
            fault("device " + std::to_string(device));
        }
    }

    // What deserialize_tensor asserts on. The bytes behind `data`, as ggml_nbytes has them; 0 without a buffer.
    Wide expect_tensor(const uint8_t * bytes, bool unplaced = false) {
        const Tensor one = read_tensor(bytes);
        if (type_of(one.type).bytes == 0) {
            fault("type " + std::to_string(one.type));
            return 0;
        }
        Wide product = one.ne[0];
        for (size_t i = 1; i < 4; ++i) {
            product *= std::max<uint32_t>(one.ne[i], 1);
        }
        if (one.ne[0] % type_of(one.type).block != 0 || product >> 62 != 0) {
            fault("shape");
        }
        const auto found = buffers.find(one.buffer);
        if (found == buffers.end()) {
            if (!unplaced || one.buffer != 0 || one.data != 0) {
                fault("buffer " + std::to_string(one.buffer));
            }
            return bytes_of(one);
        }
        const Buffer & buffer = found->second;
        if (one.data < buffer.base || Wide(one.data) + bytes_of(one) > Wide(buffer.base) + buffer.size) {
            fault("tensor outside its buffer");
        }
        return bytes_of(one);
    }

    void expect_part(const uint8_t * where, uint64_t offset, Wide size) {
        const Wide all = expect_tensor(where);
        if (Wide(offset) + size > all) {
            fault("part outside the tensor");
        }
    }

    void serve() {
        const uint8_t         command = frame_[0];
        const uint8_t * const payload = frame_.data() + REQUEST_HEADER_BYTES;
        const uint64_t        length  = load64(&frame_[1]);
        if ((command == HELLO) != !greeted_ || command >= COMMAND_COUNT) {
            fault("out of turn");
        } else if (length < command_of(command).payload_bytes ||
                   (length > command_of(command).payload_bytes && command != SET_TENSOR && command != GRAPH_COMPUTE)) {
            fault("length");
        } else {
            serve(command, payload, length);
        }
        if (keep_requests) {
            requests.push_back({ command, Bytes(frame_.begin() + REQUEST_HEADER_BYTES, frame_.end()) });
        }
        frame_.clear();
    }

    void serve(uint8_t command, const uint8_t * payload, uint64_t length) {
        switch (command) {
            case HELLO:
                greeted_ = true;
                if (std::any_of(payload, payload + length, [](uint8_t byte) { return byte != 0; })) {
                    fault("capabilities");
                }
                answer(Bytes{ 7, 0, 0, 0 } + Bytes(CAPS_BYTES, 0xff));
                break;
            case DEVICE_COUNT: answer(number(DEVICES, 4)); break;
            case GET_ALIGNMENT:
            case GET_MAX_SIZE: expect_device(load32(payload)); answer(number(64, 8)); break;
            case GET_DEVICE_MEMORY: expect_device(load32(payload)); answer(number(memory, 8) + number(2 * memory, 8)); break;
            case ALLOC_BUFFER: serve_alloc(load32(payload), load64(payload + 4)); break;
            case BUFFER_GET_BASE: answer(number(expect_buffer(load64(payload)).base, 8)); break;
            case BUFFER_CLEAR: expect_buffer(load64(payload)); break;
            case FREE_BUFFER:
                expect_buffer(load64(payload));
                buffers.erase(load64(payload));
                graphs_.clear();
                break;
            case SET_TENSOR:
                expect_part(payload, load64(payload + TENSOR_BYTES + 1), length - SET_HEAD_BYTES);
                if (payload[TENSOR_BYTES] != 0) {
                    fault("cache flag");
                }
                passing_ = length - SET_HEAD_BYTES;
                break;
            case GET_TENSOR:
                expect_part(payload, load64(payload + TENSOR_BYTES), load64(payload + TENSOR_BYTES + 8));
                answer(Bytes(std::min<uint64_t>(load64(payload + TENSOR_BYTES + 8), 1 << 20), 0x5a));
                break;
            case MEMSET_TENSOR: expect_part(payload, load64(payload + TENSOR_BYTES), load64(payload + TENSOR_BYTES + 8)); break;
            case COPY_TENSOR:
                if (expect_tensor(payload) > expect_tensor(payload + TENSOR_BYTES)) {
                    fault("larger than the target");
                }
                answer({ 1 });
                break;
            case INIT_TENSOR: expect_tensor(payload); break;
            case GET_ALLOC_SIZE: serve_alloc_size(payload); break;
            case GRAPH_COMPUTE: serve_graph(payload, length); break;
            case GRAPH_RECOMPUTE: serve_recompute(load32(payload)); break;
            default: fault("never forwarded"); break;
        }
    }

    Buffer expect_buffer(uint64_t handle) {
        const auto found = buffers.find(handle);
        if (found == buffers.end()) {
            fault("buffer " + std::to_string(handle));
            return {};
        }
        return found->second;
    }

    // Pointers of freed buffers are granted again, as an allocator does.
    void serve_alloc(uint32_t device, uint64_t size) {
        expect_device(device);
        if (size > memory) {
            answer(Bytes(16));
            return;
        }
        uint64_t slot = 0;
        while (buffers.count(HANDLES + 0x140 * slot) != 0) {
            ++slot;
        }
        const uint64_t handle = HANDLES + 0x140 * slot;
        buffers[handle]       = { BASES + (slot << 16) + 0x40 * (slot + 1), size };
        answer(number(handle, 8) + number(size, 8));
    }

    void serve_alloc_size(const uint8_t * payload) {
        expect_device(load32(payload));
        const Wide size = expect_tensor(payload + 4, true);
        for (size_t i = 1; i <= MAX_SOURCES; ++i) {
            if (load64(payload + 4 + i * TENSOR_BYTES) != 0) {
                expect_tensor(payload + 4 + i * TENSOR_BYTES, true);
            }
        }
        answer(number(static_cast<uint64_t>(size), 8));
    }

    void serve_graph(const uint8_t * payload, uint64_t length) {
        const uint32_t device = load32(payload);
        expect_device(device);
        const uint64_t nodes = load32(payload + 4);
        if (GRAPH_HEAD_BYTES + 8 * nodes > length ||
            GRAPH_HEAD_BYTES + 8 * nodes + TENSOR_BYTES * uint64_t(load32(payload + 8 + 8 * nodes)) != length) {
            fault("graph length");
            return;
        }
        std::map<uint64_t, const uint8_t *> seen;  // by id
        for (uint64_t at = GRAPH_HEAD_BYTES + 8 * nodes; at < length; at += TENSOR_BYTES) {
            expect_tensor(payload + at, true);
            expect_references(payload + at, seen);
        }
        for (uint64_t i = 0; i < nodes; ++i) {
            expect_node(load64(payload + 8 + 8 * i), seen);
        }
        graphs_[device] = true;
    }

    // What create_node follows: by recursion, from a map of all tensors, and without a look at what it finds there.
    void expect_references(const uint8_t * bytes, std::map<uint64_t, const uint8_t *> & seen) {
        const References references = read_references(bytes);
        for (const uint64_t id : references.src) {
            const bool own = id == references.id && read_tensor(bytes).op == CPY;
            if (id != 0 && seen.count(id) == 0 && !own) {
                fault("source " + std::to_string(id) + " is not there yet");
            }
        }
        if (references.view_src != 0 && seen.count(references.view_src) == 0) {
            fault("view of " + std::to_string(references.view_src) + ", which is not there yet");
        }
        if (references.id == 0 || !seen.emplace(references.id, bytes).second) {
            fault("id " + std::to_string(references.id));
        }
    }

    void expect_node(uint64_t id, const std::map<uint64_t, const uint8_t *> & seen) {
        const auto found = seen.find(id);
        if (found == seen.end()) {
            fault("node " + std::to_string(id) + " is not there");
            return;
        }
        const Tensor node = read_tensor(found->second);
        if (node.op >= OP_COUNT || (node.op >= FIRST_WITH_POINTER && node.op <= LAST_WITH_POINTER)) {
            fault("op " + std::to_string(node.op));
        }
        const bool computed = node.op != 0 && (node.op < RESHAPE || node.op > TRANSPOSE);
        for (const uint64_t source : read_references(found->second).src) {
            if (computed && (node.buffer == 0 || (source != 0 && read_tensor(seen.at(source)).buffer == 0))) {
                fault("node " + std::to_string(id) + " or a source of it has no memory");
            }
        }
    }

    void serve_recompute(uint32_t device) {
        if (graphs_.count(device) == 0) {
            fault("no graph");
        }
    }

    bool                     greeted_ = false;
    Bytes                    frame_;
    uint64_t                 passing_ = 0;  // data of a SET_TENSOR still to come
    std::map<uint32_t, bool> graphs_;
};

}  // namespace frames
