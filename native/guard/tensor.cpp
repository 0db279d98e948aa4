#include "tensor.h"

#include "wire.h"

namespace rpcmesh::guard {

namespace {

// As type_traits in ggml.c. Numbers that ggml no longer uses have no bytes.
constexpr Type types[TYPE_COUNT] = {
    { "f32", 1, 4 },      { "f16", 1, 2 },      { "q4_0", 32, 18 },     { "q4_1", 32, 20 },     { "type4", 0, 0 },
    { "type5", 0, 0 },    { "q5_0", 32, 22 },   { "q5_1", 32, 24 },     { "q8_0", 32, 34 },     { "q8_1", 32, 36 },
    { "q2_K", 256, 84 },  { "q3_K", 256, 110 }, { "q4_K", 256, 144 },   { "q5_K", 256, 176 },   { "q6_K", 256, 210 },
    { "q8_K", 256, 292 }, { "iq2_xxs", 256, 66 }, { "iq2_xs", 256, 74 }, { "iq3_xxs", 256, 98 }, { "iq1_s", 256, 50 },
    { "iq4_nl", 32, 18 }, { "iq3_s", 256, 110 }, { "iq2_s", 256, 82 },  { "iq4_xs", 256, 136 }, { "i8", 1, 1 },
    { "i16", 1, 2 },      { "i32", 1, 4 },      { "i64", 1, 8 },        { "f64", 1, 8 },        { "iq1_m", 256, 56 },
    { "bf16", 1, 2 },     { "type31", 0, 0 },   { "type32", 0, 0 },     { "type33", 0, 0 },     { "tq1_0", 256, 54 },
    { "tq2_0", 256, 66 }, { "type36", 0, 0 },   { "type37", 0, 0 },     { "type38", 0, 0 },     { "mxfp4", 32, 17 },
    { "nvfp4", 64, 36 },  { "q1_0", 128, 18 },  { "q2_0", 64, 18 },
};

constexpr Type no_type = { "none", 0, 0 };

Finding refused(Refusal refusal, const Tensor & tensor, const char * words) {
    Finding finding;
    finding.refusal = refusal;
    finding.detail  = std::string(words) + ": type " + std::to_string(tensor.type) + ", ne";
    for (uint32_t ne : tensor.ne) {
        finding.detail += " " + std::to_string(ne);
    }
    finding.detail += ", nb";
    for (uint32_t nb : tensor.nb) {
        finding.detail += " " + std::to_string(nb);
    }
    return finding;
}

}  // namespace

void read_tensor(const uint8_t * bytes, Tensor & tensor) {
    tensor.type   = load32(bytes + 8);
    tensor.buffer = load64(bytes + TENSOR_BUFFER_OFFSET);
    for (size_t i = 0; i < 4; ++i) {
        tensor.ne[i] = load32(bytes + 20 + 4 * i);
        tensor.nb[i] = load32(bytes + 36 + 4 * i);
    }
    tensor.op = load32(bytes + 52);
    for (size_t i = 0; i < 16; ++i) {
        tensor.op_params[i] = static_cast<int32_t>(load32(bytes + 56 + 4 * i));
    }
    tensor.data = load64(bytes + TENSOR_DATA_OFFSET);
}

References read_references(const uint8_t * bytes) {
    References references;
    references.id = load64(bytes);
    for (size_t i = 0; i < MAX_SOURCES; ++i) {
        references.src[i] = load64(bytes + 124 + 8 * i);
    }
    references.slots = MAX_SOURCES;
    while (references.slots > 0 && references.src[references.slots - 1] == 0) {
        --references.slots;
    }
    references.view_src  = load64(bytes + 204);
    references.view_offs = load64(bytes + 212);
    return references;
}

const Type & type_of(uint32_t type) {
    return type < TYPE_COUNT ? types[type] : no_type;
}

Wide bytes_of(const Tensor & tensor) {
    const Type & type = type_of(tensor.type);
    if (is_empty(tensor) || type.bytes == 0) {
        return 0;
    }
    // One term of each dimension is below 2^64, so their sum is far from wrapping.
    Wide bytes = type.block == 1 ? type.bytes + uint64_t(tensor.ne[0] - 1) * tensor.nb[0] :
                                   uint64_t(tensor.ne[0]) * tensor.nb[0] / type.block;
    for (size_t i = 1; i < 4; ++i) {
        bytes += uint64_t(tensor.ne[i] - 1) * tensor.nb[i];
    }
    return bytes;
}

Wide row_bytes(const Tensor & tensor) {
    const Type & type = type_of(tensor.type);
    // As below, a compare in place of a division.
    if (type.block == 1) {
        return uint64_t(tensor.ne[0]) * type.bytes;
    }
    return type.bytes == 0 ? 0 : uint64_t(tensor.ne[0] / type.block) * type.bytes;
}

bool is_contiguous(const Tensor & tensor) {
    const Type & type = type_of(tensor.type);
    if (tensor.ne[0] != type.block && tensor.nb[0] != type.bytes) {
        return false;
    }
    Wide next = row_bytes(tensor);
    for (size_t i = 1; i < 4; ++i) {
        if (tensor.ne[i] != 1 && tensor.nb[i] != next) {
            return false;
        }
        next *= tensor.ne[i];
    }
    return true;
}

Finding check_type_and_shape(const Tensor & tensor) {
    const Type & type = type_of(tensor.type);
    if (type.bytes == 0) {
        return refused(Refusal::tensor_type, tensor, "no such type");
    }
    // A compare is cheaper than the division, and most types have blocks of one element.
    if (type.block != 1 && tensor.ne[0] % type.block != 0) {
        return refused(Refusal::tensor_shape, tensor, "a row is not a whole number of blocks");
    }
    // ggml multiplies all of them but the zeros, and its kernels count one dimension in an int.
    std::array<uint64_t, 4> ne;
    for (size_t i = 0; i < 4; ++i) {
        if (tensor.ne[i] > INT32_MAX) {
            return refused(Refusal::tensor_shape, tensor, "a dimension is too large");
        }
        ne[i] = tensor.ne[i] == 0 ? 1 : tensor.ne[i];
    }
    if (Wide(ne[0] * ne[1]) * (ne[2] * ne[3]) > MAX_ELEMENTS) {
        return refused(Refusal::tensor_shape, tensor, "too many elements");
    }
    // Kernels read rows as packed whatever nb[0] is; so a row must not claim to be shorter than its elements. Of blocks
    // even a single one is measured by nb[0].
    const bool measured = type.block == 1 ? tensor.ne[0] > 1 : tensor.ne[0] != 0;
    if (measured && tensor.nb[0] < type.bytes) {
        return refused(Refusal::tensor_shape, tensor, "the elements of a row overlap");
    }
    return {};
}

}  // namespace rpcmesh::guard
