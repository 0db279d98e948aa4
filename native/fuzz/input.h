// What the fuzz targets share: numbers out of a fuzzer's bytes, and the end of a run that found something.
#pragma once

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <iterator>
#include <string>
#include <vector>

namespace fuzz {

// Numbers out of a fuzzer's bytes; zeros when they are used up.
class Input {
public:
    Input(const uint8_t * data, size_t size) : data_(data), left_(size) {}

    uint32_t below(uint32_t limit) {
        uint32_t value = 0;
        for (uint32_t span = limit - 1; span > 0; span >>= 8) {
            value = value << 8 | byte();
        }
        return value % limit;
    }

    // A number that is often where something ends, wraps or changes its sign.
    uint64_t odd_number() {
        constexpr uint64_t odd[] = { 0, 1, 2, 3, 31, 32, 33, 255, 256, 4095, 0x7fffffff, 0x80000000, 0xffffffff, uint64_t(1) << 32,
                                     uint64_t(1) << 40, uint64_t(1) << 63, ~uint64_t(0) };
        return odd[below(std::size(odd))] + (below(4) == 0 ? below(1024) : 0);
    }

    std::vector<uint8_t> rest() { return { data_, data_ + left_ }; }
    bool                 empty() const { return left_ == 0; }

private:
    uint8_t byte() {
        if (left_ == 0) {
            return 0;
        }
        --left_;
        return *data_++;
    }

    const uint8_t * data_;
    size_t          left_;
};

inline void expect(bool holds, const char * what, const std::string & detail = "") {
    if (!holds) {
        std::fprintf(stderr, "found: %s: %s\n", what, detail.c_str());
        std::abort();
    }
}

}  // namespace fuzz
