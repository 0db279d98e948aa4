// Runs a fuzz target where the compiler has no libFuzzer: over files (TARGET FILE...), or over made-up inputs
// (TARGET -runs=100000 -seed=1). With FUZZ_LAST=FILE an input that ends the run is in that file.
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <random>
#include <vector>

extern "C" int LLVMFuzzerTestOneInput(const uint8_t * data, size_t size);

namespace {

using Bytes = std::vector<uint8_t>;

void run(const Bytes & bytes) {
    if (const char * last = std::getenv("FUZZ_LAST")) {
        std::ofstream(last, std::ios::binary).write(reinterpret_cast<const char *>(bytes.data()), static_cast<std::streamsize>(bytes.size()));
    }
    LLVMFuzzerTestOneInput(bytes.data(), bytes.size());
}

}  // namespace

int main(int count, char ** arguments) {
    unsigned long runs = 0;
    unsigned long seed = 1;
    for (int i = 1; i < count; ++i) {
        if (std::strncmp(arguments[i], "-runs=", 6) == 0) {
            runs = std::strtoul(arguments[i] + 6, nullptr, 10);
        } else if (std::strncmp(arguments[i], "-seed=", 6) == 0) {
            seed = std::strtoul(arguments[i] + 6, nullptr, 10);
        } else {
            std::ifstream file(arguments[i], std::ios::binary);
            run(Bytes(std::istreambuf_iterator<char>(file), {}));
        }
    }
    std::mt19937_64 random(seed);
    for (unsigned long i = 0; i < runs; ++i) {
        Bytes bytes(1 + random() % 1500);
        for (uint8_t & byte : bytes) {
            byte = static_cast<uint8_t>(random());
        }
        run(bytes);
    }
    std::printf("%lu runs from seed %lu\n", runs, seed);
    return 0;
}
