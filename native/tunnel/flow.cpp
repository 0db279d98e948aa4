#include "flow.h"

#include <algorithm>
#include <cstring>

namespace rpcmesh {

Flow::Flow() : buffer_(BUFFER_BYTES) {}

void Flow::preload(const Early & early) {
    std::copy(early.bytes.begin(), early.bytes.end(), buffer_.begin());
    end_    = early.bytes.size();
    passed_ = early.passed;
}

size_t Flow::read_from(End & end) {
    if (begin_ > 0) {
        std::memmove(buffer_.data(), buffer_.data() + begin_, end_ - begin_);
        end_ -= begin_;
        begin_ = 0;
    }
    const size_t got = end.read(buffer_.data() + end_, buffer_.size() - end_);
    end_ += got;
    return got;
}

size_t Flow::write_to(End & end) {
    if (passed_ > 0) {
        const size_t written = end.write(buffer_.data() + begin_, passed_);
        begin_ += written;
        passed_ -= written;
        return written;
    }
    const size_t written = end.write(own_.data() + own_sent_, own_.size() - own_sent_);
    own_sent_ += written;
    if (!has_own()) {
        own_.clear();
        own_sent_ = 0;
    }
    return written;
}

void Flow::insert(const std::vector<uint8_t> & bytes) {
    if (has_own() || bytes.size() > buffer_.size() - end_) {
        append(bytes);
        return;
    }
    std::memmove(held() + bytes.size(), held(), held_size());
    std::copy(bytes.begin(), bytes.end(), held());
    end_ += bytes.size();
    passed_ += bytes.size();
}

void Flow::drop(size_t size) {
    std::memmove(held(), held() + size, held_size() - size);
    end_ -= size;
}

}  // namespace rpcmesh
