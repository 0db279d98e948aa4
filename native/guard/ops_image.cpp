// Pools, pads, scales and windows: what else the encoders of images and sound use.
#include <cmath>
#include <cstdlib>
#include <cstring>

#include "op_rule.h"
#include "shapes.h"
#include "steps.h"

namespace rpcmesh::guard {

namespace {

constexpr uint32_t SCALE_MODES     = 3;
constexpr uint32_t SCALE_BILINEAR  = 1;
constexpr uint32_t SCALE_ANTIALIAS = 1 << 9;
constexpr uint32_t MAX_EXACT_FLOAT = 1 << 24;
constexpr int32_t  POOLS           = 2;

bool pools(const Node & node, size_t dimension, int64_t kernel, int64_t stride, int64_t padding) {
    const int64_t in  = source(node, 0).ne[dimension];
    const int64_t out = (in + 2 * padding - kernel) / stride + 1;
    return out > 0 && uint64_t(out) == node.self->ne[dimension];
}

Problem pool_1d(const Node & node) {
    const Tensor & a    = source(node, 0);
    const Tensor & self = *node.self;
    if (uint32_t(parameter(node, 0)) >= POOLS || !are_steps(node, 1, 2, 1) || !are_steps(node, 3, 3, 0)) {
        return bad_parameter("no such pool, kernel, stride or padding");
    }
    if (self.ne[1] != a.ne[1] || self.ne[2] != a.ne[2] || self.ne[3] != a.ne[3] ||
        !pools(node, 0, parameter(node, 1), parameter(node, 2), parameter(node, 3))) {
        return bad_shape("the pool does not fit");
    }
    return has_packed_rows(a) && has_packed_rows(self) && fits_by_rows(a) && fits_by_rows(self) ? fine : bad_shape("only even rows are pooled");
}

Problem pool_2d(const Node & node) {
    const Tensor & a    = source(node, 0);
    const Tensor & self = *node.self;
    if (uint32_t(parameter(node, 0)) >= POOLS || !are_steps(node, 1, 4, 1) || !are_steps(node, 5, 6, 0)) {
        return bad_parameter("no such pool, kernel, stride or padding");
    }
    if (self.ne[2] != a.ne[2] || self.ne[3] != a.ne[3] || !pools(node, 0, parameter(node, 1), parameter(node, 3), parameter(node, 5)) ||
        !pools(node, 1, parameter(node, 2), parameter(node, 4), parameter(node, 6))) {
        return bad_shape("the pool does not fit");
    }
    return is_contiguous(a) && is_contiguous(self) ? fine : bad_shape("only contiguous planes are pooled");
}

// The kernel divides indices by the quotient of two sizes, all of them floats.
Problem upscale(const Node & node) {
    const Tensor & a    = source(node, 0);
    const uint32_t mode = static_cast<uint32_t>(parameter(node, 0));
    if ((mode & 0xff) >= SCALE_MODES || ((mode & SCALE_ANTIALIAS) != 0 && (mode & 0xff) != SCALE_BILINEAR)) {
        return bad_parameter("no such mode");
    }
    if (is_empty(a)) {
        return bad_shape("nothing to scale");
    }
    for (size_t i = 0; i < 4; ++i) {
        if (a.ne[i] > MAX_EXACT_FLOAT || node.self->ne[i] > MAX_EXACT_FLOAT) {
            return bad_shape("too large to be scaled");
        }
        // As in the kernel: the last index of the result must fall inside the source.
        const float scale = static_cast<float>(node.self->ne[i]) / a.ne[i];
        if (static_cast<int64_t>(static_cast<int64_t>(node.self->ne[i] - 1) / scale) >= int64_t(a.ne[i])) {
            return bad_shape("the scale is rounded beyond the source");
        }
    }
    return fine;
}

Problem pad(const Node & node) {
    const Tensor & a    = source(node, 0);
    const Tensor & self = *node.self;
    for (size_t i = 0; i < 4; ++i) {
        // A negative padding cuts off.
        const int64_t left  = parameter(node, 2 * i);
        const int64_t right = parameter(node, 2 * i + 1);
        if (int64_t(self.ne[i]) != a.ne[i] + left + right) {
            return bad_shape("source and paddings do not make the result");
        }
        // To the left a torus is gone round once at most.
        if (parameter(node, 8) != 0 && (a.ne[i] == 0 || left > a.ne[i])) {
            return bad_parameter("a circular padding is longer than its source");
        }
    }
    return is_contiguous(self) ? fine : bad_shape("the result has gaps");
}

Problem pad_reflected(const Node & node) {
    const Tensor & a     = source(node, 0);
    const int64_t  left  = parameter(node, 0);
    const int64_t  right = parameter(node, 1);
    if (left < 0 || right < 0 || left >= a.ne[0] || right >= a.ne[0]) {
        return bad_parameter("a padding is negative or longer than its source");
    }
    const bool fits = has_shape(*node.self, uint64_t(a.ne[0] + left + right), a.ne[1], a.ne[2], a.ne[3]);
    return fits && has_packed_rows(a) && has_packed_rows(*node.self) ? fine : bad_shape("source and paddings do not make the result");
}

Problem roll(const Node & node) {
    const Tensor & a = source(node, 0);
    for (size_t i = 0; i < 4; ++i) {
        if (std::abs(int64_t(parameter(node, i))) >= a.ne[i]) {
            return bad_parameter("a shift is longer than its dimension");
        }
    }
    return same_shape(a, *node.self) && has_packed_rows(a) && has_packed_rows(*node.self) ? fine :
                                                                                           bad_shape("not two equal shapes of packed rows");
}

float float_parameter(const Node & node, size_t i) {
    const int32_t bits  = parameter(node, i);
    float         value = 0;
    std::memcpy(&value, &bits, sizeof(value));
    return value;
}

Problem arange(const Node & node) {
    const float steps = std::ceil((float_parameter(node, 1) - float_parameter(node, 0)) / float_parameter(node, 2));
    if (!(steps >= 0.0f && steps <= 9.0e15f)) {
        return bad_parameter("no such range");
    }
    return elements(*node.self) == Wide(uint64_t(steps)) && is_contiguous(*node.self) ? fine : bad_shape("the result does not fit the range");
}

Problem timestep_embedding(const Node & node) {
    const Tensor & a   = source(node, 0);
    const int32_t  dim = parameter(node, 0);
    if (dim <= 0 || parameter(node, 1) <= 0) {
        return bad_parameter("no such dimension or period");
    }
    const bool fits = is_vector(a) && is_matrix(*node.self) && node.self->ne[0] >= uint32_t(dim) && node.self->ne[1] == a.ne[0];
    return fits && has_packed_rows(a) && has_packed_rows(*node.self) ? fine : bad_shape("not one embedding a step");
}

Problem windows(const Node & node) {
    const Tensor & a    = source(node, 0);
    const Tensor & self = *node.self;
    const int64_t  w    = parameter(node, 2);
    if (w <= 0 || w > MAX_STEP) {
        return bad_parameter("no such window");
    }
    const int64_t across = (a.ne[1] + w - 1) / w;
    const int64_t down   = (a.ne[2] + w - 1) / w;
    if (parameter(node, 0) != across || parameter(node, 1) != down) {
        return bad_parameter("not so many windows");
    }
    const bool fits = a.ne[3] == 1 && has_shape(self, a.ne[0], uint64_t(w), uint64_t(w), uint64_t(across * down));
    return fits && is_contiguous(a) && is_contiguous(self) ? fine : bad_shape("the windows do not fit");
}

Problem windows_back(const Node & node) {
    const Tensor & a    = source(node, 0);
    const Tensor & self = *node.self;
    const int64_t  w    = parameter(node, 0);
    if (w <= 0 || w > MAX_STEP) {
        return bad_parameter("no such window");
    }
    const uint64_t across = uint64_t(self.ne[1] + w - 1) / uint64_t(w);
    const uint64_t down   = uint64_t(self.ne[2] + w - 1) / uint64_t(w);
    const bool     fits   = self.ne[3] == 1 && has_shape(a, self.ne[0], uint64_t(w), uint64_t(w), across * down);
    return fits && is_contiguous(a) && is_contiguous(self) ? fine : bad_shape("the windows do not fit");
}

Problem relative_positions(const Node & node) {
    const Tensor & a    = source(node, 0);
    const Tensor & self = *node.self;
    if (a.type != self.type) {
        return bad_type("the result has another type");
    }
    const bool fits = self.ne[1] == self.ne[2] && self.ne[3] == 1 && self.ne[0] == a.ne[0] && is_matrix(a) && uint64_t(self.ne[1]) * 2 == uint64_t(a.ne[1]) + 1;
    return fits && is_contiguous(a) && is_contiguous(self) ? fine : bad_shape("the positions do not fit");
}

Problem add_relative_positions(const Node & node) {
    const Tensor & a = source(node, 0);
    const Tensor & w = source(node, 1);
    const Tensor & h = source(node, 2);
    const bool fits = same_shape(a, *node.self) && same_shape(w, h) && a.ne[3] == 1 && w.ne[3] == a.ne[2] &&
                      uint64_t(w.ne[0]) * w.ne[0] == a.ne[0] && uint64_t(w.ne[1]) * w.ne[2] == a.ne[1];
    return fits && is_contiguous(a) && is_contiguous(w) && is_contiguous(h) && is_contiguous(*node.self) ? fine :
                                                                                                          bad_shape("the positions do not fit");
}

constexpr Types halfs = f32 | f16;
constexpr Types short_floats = f16 | types_of(type::BF16);

constexpr Rule rules[] = {
    // op                        n  result        sources            check
    { 60 /*POOL_1D*/,            1, f32,          { halfs },         pool_1d },
    { 61 /*POOL_2D*/,            1, f32,          { halfs },         pool_2d },
    { 63 /*UPSCALE*/,            1, f32,          { f32 },           upscale },
    { 64 /*PAD*/,                1, f32,          { f32 },           pad },
    { 65 /*PAD_REFLECT_1D*/,     1, f32,          { f32 },           pad_reflected },
    { 66 /*ROLL*/,               1, f32,          { f32 },           roll },
    { 67 /*ARANGE*/,             0, f32,          {},                arange },
    { 68 /*TIMESTEP_EMBEDDING*/, 1, f32,          { f32 },           timestep_embedding },
    { 78 /*WIN_PART*/,           1, f32,          { f32 },           windows },
    { 79 /*WIN_UNPART*/,         1, f32,          { f32 },           windows_back },
    { 80 /*GET_REL_POS*/,        1, short_floats, { short_floats },  relative_positions },
    { 81 /*ADD_REL_POS*/,        3, f32,          { f32, f32, f32 }, add_relative_positions },
};

}  // namespace

Rules image_rules() {
    return { std::begin(rules), std::end(rules) };
}

}  // namespace rpcmesh::guard
