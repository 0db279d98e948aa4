"""What the layers of an architecture are made of: tensors by name with their shapes, and the keys that go with them.

Nothing here writes a file. Shapes are as GGUF has them, the row's length first. Keys and tensors are those that
llama.cpp's src/models/*.cpp asks for.
"""

from __future__ import annotations

from typing import Any

# Embedding, heads, heads of keys and values, a head's size, feed-forward, vocabulary. llama.cpp rotates a quantized
# cache only where a head's size is a multiple of 64, and moving one up without that ends the client.
D, H, H_KV, HEAD, FF, VOCAB = 256, 4, 2, 64, 96, 128
KV = H_KV * HEAD
EXPERTS, EXPERT_FF = 4, 64
N_CTX_TRAIN = 1024

Shapes = dict[str, tuple[int, ...]]

KEYS: dict[str, Any] = {
    "vocab_size": VOCAB,
    "context_length": N_CTX_TRAIN,
    "embedding_length": D,
    "feed_forward_length": FF,
    "attention.head_count": H,
    "attention.head_count_kv": H_KV,
    "attention.layer_norm_rms_epsilon": 1e-5,
    "attention.layer_norm_epsilon": 1e-5,
}
NO_HEADS = {"attention.head_count": 0, "attention.head_count_kv": 0, "feed_forward_length": 0}
EXPERT_KEYS = {"expert_count": EXPERTS, "expert_used_count": 2, "expert_feed_forward_length": EXPERT_FF}
SWA_KEYS = {"attention.sliding_window": 64, "attention.sliding_window_pattern": 2, "attention.key_length": HEAD}

EMBEDDING: Shapes = {"token_embd.weight": (D, VOCAB), "output_norm.weight": (D,)}
OUTPUT: Shapes = {"output.weight": (D, VOCAB)}
ATTENTION: Shapes = {
    "attn_norm.weight": (D,),
    "attn_q.weight": (D, D),
    "attn_k.weight": (D, KV),
    "attn_v.weight": (D, KV),
    "attn_output.weight": (D, D),
}
FUSED_QKV: Shapes = {"attn_norm.weight": (D,), "attn_qkv.weight": (D, D + 2 * KV), "attn_output.weight": (D, D)}
QKV_BIAS: Shapes = {"attn_q.bias": (D,), "attn_k.bias": (KV,), "attn_v.bias": (KV,)}
QK_NORM: Shapes = {"attn_q_norm.weight": (HEAD,), "attn_k_norm.weight": (HEAD,)}
POST_NORMS: Shapes = {"post_attention_norm.weight": (D,), "post_ffw_norm.weight": (D,)}
FEED_FORWARD: Shapes = {
    "ffn_norm.weight": (D,),
    "ffn_gate.weight": (D, FF),
    "ffn_up.weight": (D, FF),
    "ffn_down.weight": (FF, D),
}
BIASED_MLP: Shapes = {
    "ffn_up.weight": (D, FF),
    "ffn_up.bias": (FF,),
    "ffn_down.weight": (FF, D),
    "ffn_down.bias": (D,),
}


def experts(width: int) -> Shapes:
    return {
        "ffn_norm.weight": (D,),
        "ffn_gate_inp.weight": (D, EXPERTS),
        "ffn_gate_exps.weight": (D, width, EXPERTS),
        "ffn_up_exps.weight": (D, width, EXPERTS),
        "ffn_down_exps.weight": (width, D, EXPERTS),
    }


SHARED_EXPERT: Shapes = {
    "ffn_gate_shexp.weight": (D, EXPERT_FF),
    "ffn_up_shexp.weight": (D, EXPERT_FF),
    "ffn_down_shexp.weight": (EXPERT_FF, D),
}
# Experts with a bias each, and attention that may look at nothing.
GPT_OSS: Shapes = (
    ATTENTION
    | QKV_BIAS
    | {name: shape for name, shape in experts(EXPERT_FF).items() if name != "ffn_norm.weight"}
    | {
        "attn_output.bias": (D,),
        "post_attention_norm.weight": (D,),
        "attn_sinks.weight": (H,),
        "ffn_gate_inp.bias": (EXPERTS,),
        "ffn_gate_exps.bias": (EXPERT_FF, EXPERTS),
        "ffn_up_exps.bias": (EXPERT_FF, EXPERTS),
        "ffn_down_exps.bias": (D, EXPERTS),
    }
)
# Multi-head latent attention: queries and keys through ranks of 32 and 64; of a head of 96, 64 are rotated.
LATENT: Shapes = {
    "attn_norm.weight": (D,),
    "attn_q_a.weight": (D, 32),
    "attn_q_a_norm.weight": (32,),
    "attn_q_b.weight": (32, H * 96),
    "attn_kv_a_mqa.weight": (D, 64 + 64),
    "attn_kv_a_norm.weight": (64,),
    "attn_k_b.weight": (32, 64, H),
    "attn_v_b.weight": (64, 32, H),
    "attn_output.weight": (H * 32, D),
}
LATENT_KEYS = {
    "attention.head_count_kv": 1,
    "attention.q_lora_rank": 32,
    "attention.kv_lora_rank": 64,
    "attention.key_length": 64 + 64,
    "attention.value_length": 64,
    "attention.key_length_mla": 96,
    "attention.value_length_mla": 32,
    "rope.dimension_count": 64,
    "leading_dense_block_count": 1,
    "expert_shared_count": 1,
    "expert_gating_func": 2,
    "expert_weights_scale": 1.5,
    "expert_weights_norm": True,
}

# State-space layers: inner size, state size, convolution.
INNER, STATE, CONV = 2 * D, 16, 4
MAMBA: Shapes = {
    "attn_norm.weight": (D,),
    "ssm_in.weight": (D, 2 * INNER),
    "ssm_conv1d.weight": (CONV, INNER),
    "ssm_conv1d.bias": (INNER,),
    "ssm_x.weight": (INNER, 8 + 2 * STATE),
    "ssm_dt.weight": (8, INNER),
    "ssm_dt.bias": (INNER,),
    "ssm_a": (STATE, INNER),
    "ssm_d": (INNER,),
    "ssm_out.weight": (INNER, D),
}
MAMBA_KEYS = {
    "ssm.conv_kernel": CONV,
    "ssm.inner_size": INNER,
    "ssm.state_size": STATE,
    "ssm.time_step_rank": 8,
}
MAMBA2: Shapes = {
    "attn_norm.weight": (D,),
    "ssm_in.weight": (D, 2 * INNER + 2 * 2 * STATE + H),
    "ssm_conv1d.weight": (CONV, INNER + 2 * 2 * STATE),
    "ssm_conv1d.bias": (INNER + 2 * 2 * STATE,),
    "ssm_dt.bias": (H,),
    "ssm_a": (1, H),
    "ssm_d": (1, H),
    "ssm_norm.weight": (INNER // 2, 2),
    "ssm_out.weight": (INNER, D),
}
MAMBA2_KEYS = MAMBA_KEYS | {"ssm.time_step_rank": H, "ssm.group_count": 2}
# Gated delta net: two heads of keys, four of values.
DELTA_NET: Shapes = {
    "attn_norm.weight": (D,),
    "attn_qkv.weight": (D, 2 * KV + D),
    "attn_gate.weight": (D, D),
    "ssm_conv1d.weight": (CONV, 2 * KV + D),
    "ssm_dt.bias": (H,),
    "ssm_a": (H,),
    "ssm_ba.weight": (D, 2 * H),
    "ssm_norm.weight": (HEAD,),
    "ssm_out.weight": (D, D),
}
DELTA_NET_KEYS = {
    "ssm.conv_kernel": CONV,
    "ssm.inner_size": D,
    "ssm.state_size": HEAD,
    "ssm.time_step_rank": H,
    "ssm.group_count": 2,
    "full_attention_interval": 2,
    "attention.key_length": HEAD,
    "attention.value_length": HEAD,
    "expert_shared_feed_forward_length": EXPERT_FF,
}
SHORT_CONVOLUTION: Shapes = {
    "attn_norm.weight": (D,),
    "shortconv.conv.weight": (3, D),
    "shortconv.in_proj.weight": (D, 3 * D),
    "shortconv.out_proj.weight": (D, D),
}

RWKV: Shapes = {
    "attn_norm.weight": (D,),
    "attn_norm.bias": (D,),
    "attn_norm_2.weight": (D,),
    "attn_norm_2.bias": (D,),
    "time_mix_key.weight": (D, D),
    "time_mix_value.weight": (D, D),
    "time_mix_receptance.weight": (D, D),
    "time_mix_ln.weight": (D,),
    "time_mix_ln.bias": (D,),
    "time_mix_output.weight": (D, D),
    "channel_mix_lerp_k.weight": (D, 1, 1),
    "channel_mix_key.weight": (D, FF),
    "channel_mix_value.weight": (FF, D),
}
RWKV6: Shapes = RWKV | {
    "time_mix_w1.weight": (D, 32 * 5),
    "time_mix_w2.weight": (32, D, 5),
    "time_mix_lerp_x.weight": (D, 1, 1),
    "time_mix_lerp_fused.weight": (D, 1, 1, 5),
    "time_mix_first.weight": (64, D // 64),
    "time_mix_decay.weight": (D,),
    "time_mix_decay_w1.weight": (D, 64),
    "time_mix_decay_w2.weight": (64, D),
    "time_mix_gate.weight": (D, D),
    "channel_mix_lerp_r.weight": (D, 1, 1),
    "channel_mix_receptance.weight": (D, D),
}
RWKV7: Shapes = (
    RWKV
    | {f"time_mix_{one}0.weight": (D,) for one in "wav"}
    | {f"time_mix_{one}1.weight": (D, 32) for one in "wavg"}
    | {f"time_mix_{one}2.weight": (32, D) for one in "wavg"}
    | {f"time_mix_{one}.weight": (D,) for one in ("k_k", "k_a", "r_k")}
    | {"time_mix_lerp_fused.weight": (D, 1, 1, 6)}
)
RWKV_KEYS = NO_HEADS | {"feed_forward_length": FF, "wkv.head_size": 64}
RWKV7_RANKS = {f"attention.{one}_lora_rank": 32 for one in ("decay", "iclr", "value_residual_mix", "gate")}
RWKV_AROUND: Shapes = (
    EMBEDDING | OUTPUT | {"output_norm.bias": (D,), "token_embd_norm.weight": (D,), "token_embd_norm.bias": (D,)}
)

BERT: Shapes = {
    **{f"attn_{one}.weight": (D, D) for one in ("q", "k", "v", "output")},
    **{f"attn_{one}.bias": (D,) for one in ("q", "k", "v", "output")},
    **{f"{one}_norm.{part}": (D,) for one in ("attn_output", "layer_output") for part in ("weight", "bias")},
}
BERT_AROUND: Shapes = {
    "token_embd.weight": (D, VOCAB),
    "token_types.weight": (D, 2),
    "token_embd_norm.weight": (D,),
    "token_embd_norm.bias": (D,),
}
BERT_KEYS = {"attention.causal": False, "attention.head_count_kv": H, "pooling_type": 1}

T5_BLOCK: Shapes = {
    "attn_norm.weight": (D,),
    **{f"attn_{one}.weight": (D, D) for one in ("q", "k", "v", "o")},
    "attn_rel_b.weight": (H, 32),
    **FEED_FORWARD,
}
T5_CROSS: Shapes = {
    "cross_attn_norm.weight": (D,),
    **{f"cross_attn_{one}.weight": (D, D) for one in ("q", "k", "v", "o")},
}

LLAMA = ATTENTION | FEED_FORWARD
MIXTRAL = ATTENTION | experts(FF)
QWEN3 = ATTENTION | QK_NORM
GEMMA3 = QWEN3 | POST_NORMS | FEED_FORWARD
PHI2 = ATTENTION | QKV_BIAS | {"attn_norm.bias": (D,), "attn_output.bias": (D,)} | BIASED_MLP
PHI3 = FUSED_QKV | FEED_FORWARD | {"ffn_up.weight": (D, 2 * FF)}
PHI3 = {name: shape for name, shape in PHI3.items() if name != "ffn_gate.weight"}
DEEPSEEK2_MOE = LATENT | experts(EXPERT_FF) | SHARED_EXPERT | {"exp_probs_b.bias": (EXPERTS,)}
MODERN_BERT = {
    "attn_norm.weight": (D,),
    "attn_qkv.weight": (D, 3 * D),
    "attn_output.weight": (D, D),
    "ffn_norm.weight": (D,),
    "ffn_up.weight": (D, 2 * FF),
    "ffn_down.weight": (FF, D),
}
QWEN3NEXT_FFN = {
    name: shape for name, shape in (experts(EXPERT_FF) | SHARED_EXPERT).items() if name != "ffn_norm.weight"
} | {"post_attention_norm.weight": (D,), "ffn_gate_inp_shexp.weight": (D,)}
DOUBLE_QUERY = QWEN3 | {"attn_q.weight": (D, 2 * D)}
GPT2 = (
    FUSED_QKV
    | {"attn_qkv.weight": (D, 3 * D), "attn_qkv.bias": (3 * D,), "attn_norm.bias": (D,), "attn_output.bias": (D,)}
    | {"ffn_norm.weight": (D,), "ffn_norm.bias": (D,)}
    | BIASED_MLP
)
BLOOM_AROUND = (
    EMBEDDING | {"token_embd_norm.weight": (D,), "token_embd_norm.bias": (D,), "output_norm.bias": (D,)} | OUTPUT
)
TIED = EMBEDDING
BIASED_END = EMBEDDING | OUTPUT | {"output_norm.bias": (D,), "output.bias": (VOCAB,)}
