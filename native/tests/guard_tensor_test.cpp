// What a tensor's type and shape amount to, and that no number on the wire wraps any of it.
#include "tensor.h"

#include <vector>

#include "check.h"
#include "shapes.h"
#include "wire.h"

namespace {

using namespace rpcmesh::guard;

constexpr uint32_t F32  = 0;
constexpr uint32_t F16  = 1;
constexpr uint32_t Q4_0 = 2;
constexpr uint32_t Q4_K = 12;
constexpr uint32_t MOST = UINT32_MAX;

Tensor make(uint32_t type, std::array<uint32_t, 4> ne, std::array<uint32_t, 4> nb) {
    Tensor tensor{};
    tensor.type = type;
    tensor.ne   = ne;
    tensor.nb   = nb;
    return tensor;
}

Tensor contiguous(uint32_t type, std::array<uint32_t, 4> ne) {
    Tensor tensor = make(type, ne, {});
    tensor.nb[0]  = type_of(type).bytes;
    tensor.nb[1]  = static_cast<uint32_t>(row_bytes(tensor));
    tensor.nb[2]  = tensor.nb[1] * ne[1];
    tensor.nb[3]  = tensor.nb[2] * ne[2];
    return tensor;
}

void every_field_is_read_from_its_place() {
    std::vector<uint8_t> bytes(TENSOR_BYTES);
    for (size_t i = 0; i < bytes.size(); ++i) {
        bytes[i] = static_cast<uint8_t>(i * 7 + 1);
    }
    const Tensor tensor = read_tensor(bytes.data());
    CHECK_EQ(tensor.type, load32(&bytes[8]));
    CHECK_EQ(tensor.buffer, load64(&bytes[12]));
    CHECK_EQ(tensor.ne[0], load32(&bytes[20]));
    CHECK_EQ(tensor.ne[3], load32(&bytes[32]));
    CHECK_EQ(tensor.nb[0], load32(&bytes[36]));
    CHECK_EQ(tensor.nb[3], load32(&bytes[48]));
    CHECK_EQ(tensor.op, load32(&bytes[52]));
    CHECK_EQ(tensor.op_params[0], static_cast<int32_t>(load32(&bytes[56])));
    CHECK_EQ(tensor.op_params[15], static_cast<int32_t>(load32(&bytes[116])));
    CHECK_EQ(tensor.data, load64(&bytes[220]));
    const References references = read_references(bytes.data());
    CHECK_EQ(references.id, load64(&bytes[0]));
    CHECK_EQ(references.src[0], load64(&bytes[124]));
    CHECK_EQ(references.src[9], load64(&bytes[196]));
    CHECK_EQ(references.view_src, load64(&bytes[204]));
    CHECK_EQ(references.view_offs, load64(&bytes[212]));
}

void types_that_ggml_dropped_are_refused() {
    for (uint32_t type : { 4u, 5u, 31u, 32u, 33u, 36u, 37u, 38u, 43u, 44u, MOST }) {
        check::row = std::to_string(type);
        CHECK_EQ(type_of(type).bytes, 0u);
        CHECK(check_type_and_shape(make(type, { 1, 1, 1, 1 }, { 4, 4, 4, 4 })).refusal == Refusal::tensor_type);
    }
}

void bytes_are_those_of_ggml_nbytes() {
    CHECK(bytes_of(contiguous(F32, { 4, 3, 2, 1 })) == 96);
    CHECK(bytes_of(contiguous(Q4_K, { 512, 3, 1, 1 })) == 2 * 144 * 3);
    CHECK(bytes_of(make(F32, { 4, 3, 1, 1 }, { 4, 64, 0, 0 })) == 4 + 3 * 4 + 2 * 64);   // a view with gaps
    CHECK(bytes_of(make(F32, { 3, 4, 1, 1 }, { 16, 4, 64, 64 })) == 4 + 2 * 16 + 3 * 4);  // transposed
    CHECK(bytes_of(make(F16, { 4, 1000, 1, 1 }, { 2, 0, 0, 0 })) == 8);                    // one row a thousand times
    CHECK(bytes_of(make(Q4_0, { 64, 2, 1, 1 }, { 18, 100, 0, 0 })) == 36 + 100);
}

void an_empty_tensor_has_no_bytes() {
    for (size_t i = 0; i < 4; ++i) {
        Tensor tensor = contiguous(F32, { 4, 3, 2, 1 });
        tensor.ne[i]  = 0;
        CHECK(is_empty(tensor));
        CHECK(bytes_of(tensor) == 0);
        CHECK(!check_type_and_shape(tensor));
    }
}

void the_largest_numbers_do_not_wrap() {
    const Tensor tensor = make(F32, { MOST, MOST, MOST, MOST }, { MOST, MOST, MOST, MOST });
    const Wide   most   = Wide(MOST - 1) * MOST;
    CHECK(bytes_of(tensor) == 4 * most + 4);
    CHECK(elements(tensor) == Wide(MOST) * MOST * MOST * MOST);
    CHECK(rows(tensor) == Wide(MOST) * MOST * MOST);
}

void bytes_beyond_64_bits_stay_beyond() {
    // In 64 bits the four strides would add up to 48 bytes.
    const Tensor tensor = make(F32, { 0x40000001, 0x40000001, 0x40000001, 0x40000001 }, { 0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff });
    CHECK(bytes_of(tensor) > Wide(UINT64_MAX) / 4);
}

void shapes_that_abort_ggml_are_refused() {
    struct Row {
        const char * what;
        Tensor       tensor;
    };
    const Row rows[] = {
        { "half a block", make(Q4_0, { 16, 1, 1, 1 }, { 18, 18, 18, 18 }) },
        { "2^46 elements with stride 0", make(F32, { 1 << 16, 1 << 16, 1 << 14, 1 }, { 4, 0, 0, 0 }) },
        { "2^64 elements", make(F32, { 1 << 16, 1 << 16, 1 << 16, 1 << 16 }, { 4, 0, 0, 0 }) },
        { "elements hidden behind a dimension of 0", make(F32, { 1 << 30, 1 << 30, 1 << 30, 0 }, { 4, 0, 0, 0 }) },
        { "a dimension that is no int", make(F32, { 1, 0x80000000, 1, 1 }, { 4, 0, 0, 0 }) },
        { "elements that overlap", make(F32, { 8, 1, 1, 1 }, { 2, 32, 32, 32 }) },
        { "one block shorter than itself", make(Q4_0, { 32, 9, 1, 1 }, { 3, 18, 18, 18 }) },
        { "blocks that overlap", make(Q4_0, { 64, 1, 1, 1 }, { 0, 36, 36, 36 }) },
    };
    for (const Row & row : rows) {
        check::row = row.what;
        CHECK(check_type_and_shape(row.tensor).refusal == Refusal::tensor_shape);
    }
}

void shapes_of_real_graphs_pass() {
    const Tensor tensors[] = {
        contiguous(F32, { 576, 70, 1, 1 }),
        contiguous(Q4_K, { 4096, 128256, 1, 1 }),
        make(F32, { 1, 4, 1, 1 }, { 0, 4, 0, 0 }),                      // one element a row: its stride says nothing
        make(F16, { 64, 256, 3, 1 }, { 2, 384, 128, 98304 }),           // the keys of three heads in a cache
        make(F16, { 256, 64, 3, 1 }, { 128, 2, 32768, 98304 }),         // transposed values
    };
    for (const Tensor & tensor : tensors) {
        CHECK_EQ(check_type_and_shape(tensor).detail, "");
    }
}

void contiguity_is_ggmls() {
    CHECK(is_contiguous(contiguous(F32, { 4, 3, 2, 1 })));
    CHECK(is_contiguous(contiguous(Q4_K, { 512, 3, 1, 1 })));
    CHECK(is_contiguous(make(F32, { 4, 1, 2, 1 }, { 4, 999, 16, 999 })));  // strides of one element do not count
    CHECK(!is_contiguous(make(F32, { 4, 3, 1, 1 }, { 4, 32, 96, 96 })));
    CHECK(!is_contiguous(make(F32, { 3, 4, 1, 1 }, { 16, 4, 64, 64 })));
}

void a_part_of_zero_divides_nothing() {
    CHECK(divides(1, 0));
    CHECK(divides(3, 9));
    CHECK(!divides(3, 10));
    CHECK(!divides(0, 9));
    CHECK(!divides(0, 0));
}

}  // namespace

int main() {
    return check::run({
        TEST(every_field_is_read_from_its_place),
        TEST(types_that_ggml_dropped_are_refused),
        TEST(bytes_are_those_of_ggml_nbytes),
        TEST(an_empty_tensor_has_no_bytes),
        TEST(the_largest_numbers_do_not_wrap),
        TEST(bytes_beyond_64_bits_stay_beyond),
        TEST(shapes_that_abort_ggml_are_refused),
        TEST(shapes_of_real_graphs_pass),
        TEST(contiguity_is_ggmls),
        TEST(a_part_of_zero_divides_nothing),
    });
}
