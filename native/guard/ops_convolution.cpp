// Convolutions, and the patches that make them products.
#include "op_rule.h"
#include "shapes.h"
#include "steps.h"

namespace rpcmesh::guard {

namespace {

// ggml_calc_conv_output_size.
int64_t convolved(int64_t in, int64_t kernel, int64_t stride, int64_t padding, int64_t dilation) {
    return (in + 2 * padding - dilation * (kernel - 1) - 1) / stride + 1;
}

// How far one dimension of a convolution slides.
struct Steps {
    size_t stride;
    size_t padding;
    size_t dilation;
};

bool slides(const Node & node, size_t dimension, const Steps & at) {
    const int64_t out = convolved(source(node, 1).ne[dimension], source(node, 0).ne[dimension], parameter(node, at.stride),
                                  parameter(node, at.padding), parameter(node, at.dilation));
    return out > 0 && uint64_t(out) == node.self->ne[dimension];
}

// Like slides, where the result's dimensions are shifted by one: [patch, OW, OH, ...].
bool slides_to(const Node & node, size_t dimension, const Steps & at) {
    const int64_t out = convolved(source(node, 1).ne[dimension], source(node, 0).ne[dimension], parameter(node, at.stride),
                                  parameter(node, at.padding), parameter(node, at.dilation));
    return out > 0 && uint64_t(out) == node.self->ne[dimension + 1];
}

// The kernel keeps these strides in an int.
bool strides_are_ints(const Tensor & t) {
    return (t.ne[2] <= 1 || t.nb[2] <= INT32_MAX) && (t.ne[3] <= 1 || t.nb[3] <= INT32_MAX);
}

Problem im2col(const Node & node) {
    const Tensor & a     = source(node, 0);
    const Tensor & b     = source(node, 1);
    const Tensor & self  = *node.self;
    const bool     plane = parameter(node, 6) == 1;
    if (!are_steps(node, 2, 3, 0) || !are_steps(node, 0, 0, 1) || !are_steps(node, 4, 4, 1) ||
        (plane && (!are_steps(node, 1, 1, 1) || !are_steps(node, 5, 5, 1)))) {
        return bad_parameter("no such strides, paddings or dilations");
    }
    if (self.type == type::F32 && b.type != type::F32) {
        return bad_type("f32 patches are cut from f32 only");
    }
    if (!is_contiguous(self) || !has_packed_rows(b) || (plane && !has_packed_planes(b)) || !strides_are_ints(b)) {
        return bad_shape("a source or the result has gaps");
    }
    if (!slides_to(node, 0, { 0, 2, 4 })) {
        return bad_shape("the kernel does not slide so far");
    }
    if (!plane) {
        const bool fits = a.ne[1] == b.ne[1] && b.ne[3] == 1 && self.ne[0] == uint64_t(a.ne[1]) * a.ne[0] && self.ne[2] == b.ne[2] && self.ne[3] == 1;
        return fits ? fine : bad_shape("kernel, rows and patches do not fit");
    }
    const bool fits = a.ne[2] == b.ne[2] && self.ne[0] == Wide(uint64_t(a.ne[2]) * a.ne[1]) * a.ne[0] && self.ne[3] == b.ne[3];
    return fits && slides_to(node, 1, { 1, 3, 5 }) ? fine : bad_shape("kernel, planes and patches do not fit");
}

Problem im2col_3d(const Node & node) {
    const Tensor & a        = source(node, 0);
    const Tensor & b        = source(node, 1);
    const Tensor & self     = *node.self;
    const int32_t  channels = parameter(node, 9);
    if (!are_steps(node, 0, 2, 1) || !are_steps(node, 3, 5, 0) || !are_steps(node, 6, 8, 1) || channels <= 0) {
        return bad_parameter("no such strides, paddings or dilations");
    }
    if (!is_contiguous(self) || !has_packed_rows(b)) {
        return bad_shape("a source or the result has gaps");
    }
    if (!divides(uint32_t(channels), b.ne[3])) {
        return bad_shape("the channels do not fit");
    }
    const uint64_t batch = b.ne[3] / uint32_t(channels);
    const int64_t  depth = convolved(b.ne[2], a.ne[2], parameter(node, 2), parameter(node, 5), parameter(node, 8));
    const Wide     patch = Wide(uint64_t(a.ne[0]) * a.ne[1]) * a.ne[2] * uint32_t(channels);
    const bool     fits  = depth > 0 && slides_to(node, 0, { 0, 3, 6 }) && slides_to(node, 1, { 1, 4, 7 }) && self.ne[0] == patch &&
                      self.ne[3] == Wide(uint64_t(depth)) * batch;
    return fits ? fine : bad_shape("kernel, volumes and patches do not fit");
}

Problem col2im(const Node & node) {
    const Tensor & a        = source(node, 0);
    const int32_t  stride   = parameter(node, 0);
    const int32_t  channels = parameter(node, 1);
    const int32_t  padding  = parameter(node, 2);
    if (!are_steps(node, 0, 0, 1) || !are_steps(node, 2, 2, 0) || channels <= 0) {
        return bad_parameter("no such stride, padding or channels");
    }
    if (a.type != node.self->type) {
        return bad_type("the result has another type");
    }
    if (!is_matrix(a) || !is_contiguous(a) || !is_contiguous(*node.self) || !divides(uint32_t(channels), a.ne[0]) || a.ne[1] == 0) {
        return bad_shape("the columns do not fit the channels");
    }
    const int64_t out = (int64_t(a.ne[1]) - 1) * stride + a.ne[0] / uint32_t(channels) - 2 * int64_t(padding);
    return out > 0 && has_shape(*node.self, uint64_t(out), uint32_t(channels), 1, 1) ? fine : bad_shape("the signal does not fit");
}

Problem conv_2d(const Node & node) {
    const Tensor & a    = source(node, 0);
    const Tensor & b    = source(node, 1);
    const Tensor & self = *node.self;
    if (!are_steps(node, 0, 1, 1) || !are_steps(node, 2, 3, 0) || !are_steps(node, 4, 5, 1)) {
        return bad_parameter("no such strides, paddings or dilations");
    }
    if (!is_contiguous(a) || a.ne[2] != b.ne[2] || self.ne[2] != a.ne[3] || self.ne[3] != b.ne[3]) {
        return bad_shape("kernel, planes and result do not fit");
    }
    return slides(node, 0, { 0, 2, 4 }) && slides(node, 1, { 1, 3, 5 }) ? fine : bad_shape("the kernel does not slide so far");
}

Problem conv_3d(const Node & node) {
    const Tensor & a        = source(node, 0);
    const Tensor & b        = source(node, 1);
    const int32_t  channels = parameter(node, 9);
    const int32_t  batch    = parameter(node, 10);
    const int32_t  results  = parameter(node, 11);
    if (!are_steps(node, 0, 2, 1) || !are_steps(node, 3, 5, 0) || !are_steps(node, 6, 8, 1) || channels <= 0 || batch <= 0 || results <= 0) {
        return bad_parameter("no such strides, paddings, dilations or channels");
    }
    if (!is_contiguous(a) || a.ne[3] != int64_t(channels) * results || b.ne[3] != int64_t(channels) * batch ||
        node.self->ne[3] != int64_t(results) * batch) {
        return bad_shape("kernel, volumes and result do not fit");
    }
    return slides(node, 0, { 0, 3, 6 }) && slides(node, 1, { 1, 4, 7 }) && slides(node, 2, { 2, 5, 8 }) ?
               fine :
               bad_shape("the kernel does not slide so far");
}

bool has_channels_innermost(const Tensor & t) {
    return t.nb[0] > t.nb[2] && t.nb[1] > t.nb[0] && t.nb[2] == type_of(t.type).bytes;
}

Problem conv_2d_each(const Node & node) {
    const Tensor & a    = source(node, 0);
    const Tensor & b    = source(node, 1);
    const Tensor & self = *node.self;
    if (!are_steps(node, 0, 1, 1) || !are_steps(node, 2, 3, 0) || !are_steps(node, 4, 5, 1)) {
        return bad_parameter("no such strides, paddings or dilations");
    }
    if (a.ne[2] != 1 || a.ne[3] != b.ne[2] || self.ne[2] != b.ne[2] || self.ne[3] != b.ne[3]) {
        return bad_shape("kernel, planes and result do not fit");
    }
    if (!slides(node, 0, { 0, 2, 4 }) || !slides(node, 1, { 1, 3, 5 })) {
        return bad_shape("the kernel does not slide so far");
    }
    const bool channels = has_channels_innermost(b) && a.nb[0] >= a.nb[2] && a.nb[1] >= a.nb[0];
    return (is_contiguous(b) || channels) && fits_as_one_run(a) && fits_as_one_run(b) && fits_as_one_run(self) ? fine : bad_shape("neither planes nor channels are packed");
}

Problem conv_transpose_1d(const Node & node) {
    const Tensor & a      = source(node, 0);
    const Tensor & b      = source(node, 1);
    const int32_t  stride = parameter(node, 0);
    if (!are_steps(node, 0, 0, 1) || parameter(node, 1) != 0 || parameter(node, 2) != 1) {
        return bad_parameter("no such stride, padding or dilation");
    }
    if (!is_matrix(b) || a.ne[2] != b.ne[1] || a.ne[3] != 1 || !has_packed_rows(a) || !has_packed_rows(b) || is_empty(a) || is_empty(b)) {
        return bad_shape("kernel and signal do not fit");
    }
    // The scratch is measured in an int.
    if (elements(a) > INT32_MAX || elements(b) > INT32_MAX) {
        return bad_shape("kernel or signal is too large");
    }
    const int64_t out = (int64_t(b.ne[0]) - 1) * stride + a.ne[0];
    return has_shape(*node.self, uint64_t(out), a.ne[1], 1, 1) && has_packed_rows(*node.self) ? fine : bad_shape("the result does not fit");
}

Problem conv_transpose_2d(const Node & node) {
    const Tensor & a      = source(node, 0);
    const Tensor & b      = source(node, 1);
    const int32_t  stride = parameter(node, 0);
    if (!are_steps(node, 0, 0, 1)) {
        return bad_parameter("no such stride");
    }
    if (a.ne[3] != b.ne[2] || !has_packed_planes(a) || !has_packed_rows(b) || is_empty(a) || is_empty(b)) {
        return bad_shape("kernel and planes do not fit");
    }
    if (elements(a) > INT32_MAX || elements(b) > INT32_MAX) {
        return bad_shape("kernel or planes are too large");
    }
    const int64_t width  = (int64_t(b.ne[0]) - 1) * stride + a.ne[0];
    const int64_t height = (int64_t(b.ne[1]) - 1) * stride + a.ne[1];
    return has_shape(*node.self, uint64_t(width), uint64_t(height), a.ne[2], b.ne[3]) && is_contiguous(*node.self) ?
               fine :
               bad_shape("the result does not fit");
}

constexpr Types halfs = f32 | f16;

constexpr Rule rules[] = {
    // op                       n  result  sources          check
    { 51 /*CONV_TRANSPOSE_1D*/, 2, f32,    { floats, f32 }, conv_transpose_1d, conv_transpose_1d },
    { 52 /*IM2COL*/,            2, halfs,  { any, halfs },  im2col },
    { 54 /*IM2COL_3D*/,         2, halfs,  { any, f32 },    im2col_3d },
    { 55 /*COL2IM_1D*/,         1, floats, { floats },      col2im },
    { 56 /*CONV_2D*/,           2, f32,    { halfs, f32 },  conv_2d },
    { 57 /*CONV_3D*/,           2, f32,    { halfs, f32 },  conv_3d },
    { 58 /*CONV_2D_DW*/,        2, f32,    { halfs, f32 },  conv_2d_each },
    { 59 /*CONV_TRANSPOSE_2D*/, 2, f32,    { halfs, f32 },  conv_transpose_2d },
};

}  // namespace

Rules convolution_rules() {
    return { std::begin(rules), std::end(rules) };
}

}  // namespace rpcmesh::guard
