#include "ops.h"

#include "op_rule.h"

namespace rpcmesh::guard {

namespace {

// As ggml_op in ggml.h.
constexpr const char * names[OP_COUNT] = {
    "NONE", "DUP", "ADD", "ADD_ID", "ADD1", "ACC", "SUB", "MUL", "DIV", "SQR",
    "SQRT", "LOG", "SIN", "COS", "SUM", "SUM_ROWS", "CUMSUM", "MEAN", "ARGMAX", "COUNT_EQUAL",
    "REPEAT", "REPEAT_BACK", "CONCAT", "SILU_BACK", "NORM", "RMS_NORM", "RMS_NORM_BACK", "GROUP_NORM", "L2_NORM", "MUL_MAT",
    "MUL_MAT_ID", "OUT_PROD", "SCALE", "SET", "CPY", "CONT", "RESHAPE", "VIEW", "PERMUTE", "TRANSPOSE",
    "GET_ROWS", "GET_ROWS_BACK", "SET_ROWS", "DIAG", "DIAG_MASK_INF", "DIAG_MASK_ZERO", "SOFT_MAX", "SOFT_MAX_BACK", "ROPE", "ROPE_BACK",
    "CLAMP", "CONV_TRANSPOSE_1D", "IM2COL", "IM2COL_BACK", "IM2COL_3D", "COL2IM_1D", "CONV_2D", "CONV_3D", "CONV_2D_DW", "CONV_TRANSPOSE_2D",
    "POOL_1D", "POOL_2D", "POOL_2D_BACK", "UPSCALE", "PAD", "PAD_REFLECT_1D", "ROLL", "ARANGE", "TIMESTEP_EMBEDDING", "ARGSORT",
    "TOP_K", "LEAKY_RELU", "TRI", "FILL", "FLASH_ATTN_EXT", "FLASH_ATTN_BACK", "SSM_CONV", "SSM_SCAN", "WIN_PART", "WIN_UNPART",
    "GET_REL_POS", "ADD_REL_POS", "RWKV_WKV6", "GATED_LINEAR_ATTN", "RWKV_WKV7", "SOLVE_TRI", "GATED_DELTA_NET", "LIGHTNING_INDEXER", "DSV4_HC_COMB", "DSV4_HC_PRE",
    "DSV4_HC_POST", "UNARY", "MAP_CUSTOM1", "MAP_CUSTOM2", "MAP_CUSTOM3", "CUSTOM", "CROSS_ENTROPY_LOSS", "CROSS_ENTROPY_LOSS_BACK", "OPT_STEP_ADAMW", "OPT_STEP_SGD",
    "GLU",
};

// These call the function that their parameters point to. No config allows that.
constexpr uint32_t MAP_CUSTOM1 = 92;
constexpr uint32_t CUSTOM      = 95;

using Table = std::array<const Rule *, OP_COUNT>;

Table table_of_all() {
    Table table{};
    for (const Rules & family : { layout_rules(), arithmetic_rules(), matrix_rules(), attention_rules(), recurrent_rules(),
                                  convolution_rules(), image_rules() }) {
        for (const Rule * rule = family.begin; rule != family.end; ++rule) {
            table[rule->op] = rule;
        }
    }
    return table;
}

const Rule * rule_of(uint32_t op) {
    static const Table table = table_of_all();
    return table[op];
}

Problem check_sources(const Node & node, const Rule & rule) {
    for (uint32_t i = 0; i < MAX_SOURCES; ++i) {
        if (node.src[i] == nullptr) {
            if (i < rule.required) {
                return { Refusal::op_sources, "a source is missing" };
            }
        } else if (rule.sources[i] == 0) {
            return { Refusal::op_sources, "a source too many" };
        } else if (!is_one_of(node.src[i]->type, rule.sources[i])) {
            return bad_type("a source has a type that this op does not take");
        }
    }
    return is_one_of(node.self->type, rule.self) ? fine : bad_type("the result has a type that this op does not make");
}

Problem check_rule(const Node & node, const Rule & rule) {
    if (const Problem problem = check_sources(node, rule)) {
        return problem;
    }
    if (rule.plan != nullptr) {
        if (const Problem problem = rule.plan(node)) {
            return problem;
        }
    }
    return rule.check == nullptr || is_empty(*node.self) ? fine : rule.check(node);
}

std::string shape_of(const Tensor & tensor) {
    std::string text = type_of(tensor.type).name;
    for (size_t i = 0; i < 4; ++i) {
        text += (i == 0 ? "[" : ",") + std::to_string(tensor.ne[i]);
    }
    return text + "]";
}

// In words: "MUL_MAT: the factors do not fit: f32[4,1,1,1] of f32[4,4,1,1] f32[5,1,1,1]".
Finding found(const Node & node, const Problem & problem) {
    Finding finding;
    finding.refusal = problem.refusal;
    finding.op      = static_cast<int>(node.self->op);
    finding.detail  = std::string(name_of_op(node.self->op)) + ": " + problem.words + ": " + shape_of(*node.self) + " of";
    for (const Tensor * src : node.src) {
        finding.detail += src == nullptr ? "" : " " + shape_of(*src);
    }
    return finding;
}

}  // namespace

const char * name_of_op(uint32_t op) {
    return op < OP_COUNT ? names[op] : "unknown";
}

bool is_op_known(uint32_t op) {
    return op < OP_COUNT && rule_of(op) != nullptr;
}

Finding check_op(const Node & node, const std::array<bool, OP_COUNT> & allowed_extra) {
    const uint32_t op = node.self->op;
    if (op >= OP_COUNT || (op >= MAP_CUSTOM1 && op <= CUSTOM)) {
        return found(node, { Refusal::op_forbidden, "this op is never allowed" });
    }
    const Rule * rule = rule_of(op);
    if (rule == nullptr) {
        return allowed_extra[op] ? Finding{} : found(node, { Refusal::op_forbidden, "this op has no rule" });
    }
    const Problem problem = check_rule(node, *rule);
    return problem ? found(node, problem) : Finding{};
}

}  // namespace rpcmesh::guard
