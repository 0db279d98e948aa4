"""Tiny models of many architectures: one row each, random weights, the same bytes every time.

They say nothing sensible. They make llama.cpp build the graphs that a real model of their kind makes. Keys and tensors
are those that llama.cpp's src/models/*.cpp asks for.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import gguf
import numpy as np

# Embedding, heads, heads of keys and values, a head's size, feed-forward, vocabulary. llama.cpp rotates a quantized
# cache only where a head's size is a multiple of 64, and moving one up without that ends the client.
D, H, H_KV, HEAD, FF, VOCAB = 256, 4, 2, 64, 96, 128
KV = H_KV * HEAD
EXPERTS, EXPERT_FF = 4, 64
N_CTX_TRAIN = 1024

Shapes = dict[str, tuple[int, ...]]
# float_cache: a decoder whose cache, or a part of it, llama.cpp cannot keep quantized and move up.
Kind = Literal["decoder", "float_cache", "embedding", "encoder_decoder"]

_KEYS: dict[str, Any] = {
    "vocab_size": VOCAB,
    "context_length": N_CTX_TRAIN,
    "embedding_length": D,
    "feed_forward_length": FF,
    "attention.head_count": H,
    "attention.head_count_kv": H_KV,
    "attention.layer_norm_rms_epsilon": 1e-5,
    "attention.layer_norm_epsilon": 1e-5,
}
_NO_HEADS = {"attention.head_count": 0, "attention.head_count_kv": 0, "feed_forward_length": 0}
_EXPERT_KEYS = {"expert_count": EXPERTS, "expert_used_count": 2, "expert_feed_forward_length": EXPERT_FF}
_SWA_KEYS = {"attention.sliding_window": 64, "attention.sliding_window_pattern": 2, "attention.key_length": HEAD}

_EMBEDDING: Shapes = {"token_embd.weight": (D, VOCAB), "output_norm.weight": (D,)}
_OUTPUT: Shapes = {"output.weight": (D, VOCAB)}
_ATTENTION: Shapes = {
    "attn_norm.weight": (D,),
    "attn_q.weight": (D, D),
    "attn_k.weight": (D, KV),
    "attn_v.weight": (D, KV),
    "attn_output.weight": (D, D),
}
_FUSED_QKV: Shapes = {"attn_norm.weight": (D,), "attn_qkv.weight": (D, D + 2 * KV), "attn_output.weight": (D, D)}
_QKV_BIAS: Shapes = {"attn_q.bias": (D,), "attn_k.bias": (KV,), "attn_v.bias": (KV,)}
_QK_NORM: Shapes = {"attn_q_norm.weight": (HEAD,), "attn_k_norm.weight": (HEAD,)}
_POST_NORMS: Shapes = {"post_attention_norm.weight": (D,), "post_ffw_norm.weight": (D,)}
_FEED_FORWARD: Shapes = {
    "ffn_norm.weight": (D,),
    "ffn_gate.weight": (D, FF),
    "ffn_up.weight": (D, FF),
    "ffn_down.weight": (FF, D),
}
_BIASED_MLP: Shapes = {
    "ffn_up.weight": (D, FF),
    "ffn_up.bias": (FF,),
    "ffn_down.weight": (FF, D),
    "ffn_down.bias": (D,),
}


def _experts(width: int) -> Shapes:
    return {
        "ffn_norm.weight": (D,),
        "ffn_gate_inp.weight": (D, EXPERTS),
        "ffn_gate_exps.weight": (D, width, EXPERTS),
        "ffn_up_exps.weight": (D, width, EXPERTS),
        "ffn_down_exps.weight": (width, D, EXPERTS),
    }


_SHARED_EXPERT: Shapes = {
    "ffn_gate_shexp.weight": (D, EXPERT_FF),
    "ffn_up_shexp.weight": (D, EXPERT_FF),
    "ffn_down_shexp.weight": (EXPERT_FF, D),
}
# Experts with a bias each, and attention that may look at nothing.
_GPT_OSS: Shapes = (
    _ATTENTION
    | _QKV_BIAS
    | {name: shape for name, shape in _experts(EXPERT_FF).items() if name != "ffn_norm.weight"}
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
_LATENT: Shapes = {
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
_LATENT_KEYS = {
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
_INNER, _STATE, _CONV = 2 * D, 16, 4
_MAMBA: Shapes = {
    "attn_norm.weight": (D,),
    "ssm_in.weight": (D, 2 * _INNER),
    "ssm_conv1d.weight": (_CONV, _INNER),
    "ssm_conv1d.bias": (_INNER,),
    "ssm_x.weight": (_INNER, 8 + 2 * _STATE),
    "ssm_dt.weight": (8, _INNER),
    "ssm_dt.bias": (_INNER,),
    "ssm_a": (_STATE, _INNER),
    "ssm_d": (_INNER,),
    "ssm_out.weight": (_INNER, D),
}
_MAMBA_KEYS = {
    "ssm.conv_kernel": _CONV,
    "ssm.inner_size": _INNER,
    "ssm.state_size": _STATE,
    "ssm.time_step_rank": 8,
}
_MAMBA2: Shapes = {
    "attn_norm.weight": (D,),
    "ssm_in.weight": (D, 2 * _INNER + 2 * 2 * _STATE + H),
    "ssm_conv1d.weight": (_CONV, _INNER + 2 * 2 * _STATE),
    "ssm_conv1d.bias": (_INNER + 2 * 2 * _STATE,),
    "ssm_dt.bias": (H,),
    "ssm_a": (1, H),
    "ssm_d": (1, H),
    "ssm_norm.weight": (_INNER // 2, 2),
    "ssm_out.weight": (_INNER, D),
}
_MAMBA2_KEYS = _MAMBA_KEYS | {"ssm.time_step_rank": H, "ssm.group_count": 2}
# Gated delta net: two heads of keys, four of values.
_DELTA_NET: Shapes = {
    "attn_norm.weight": (D,),
    "attn_qkv.weight": (D, 2 * KV + D),
    "attn_gate.weight": (D, D),
    "ssm_conv1d.weight": (_CONV, 2 * KV + D),
    "ssm_dt.bias": (H,),
    "ssm_a": (H,),
    "ssm_ba.weight": (D, 2 * H),
    "ssm_norm.weight": (HEAD,),
    "ssm_out.weight": (D, D),
}
_DELTA_NET_KEYS = {
    "ssm.conv_kernel": _CONV,
    "ssm.inner_size": D,
    "ssm.state_size": HEAD,
    "ssm.time_step_rank": H,
    "ssm.group_count": 2,
    "full_attention_interval": 2,
    "attention.key_length": HEAD,
    "attention.value_length": HEAD,
    "expert_shared_feed_forward_length": EXPERT_FF,
}
_SHORT_CONVOLUTION: Shapes = {
    "attn_norm.weight": (D,),
    "shortconv.conv.weight": (3, D),
    "shortconv.in_proj.weight": (D, 3 * D),
    "shortconv.out_proj.weight": (D, D),
}

_RWKV: Shapes = {
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
_RWKV6: Shapes = _RWKV | {
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
_RWKV7: Shapes = (
    _RWKV
    | {f"time_mix_{one}0.weight": (D,) for one in "wav"}
    | {f"time_mix_{one}1.weight": (D, 32) for one in "wavg"}
    | {f"time_mix_{one}2.weight": (32, D) for one in "wavg"}
    | {f"time_mix_{one}.weight": (D,) for one in ("k_k", "k_a", "r_k")}
    | {"time_mix_lerp_fused.weight": (D, 1, 1, 6)}
)
_RWKV_KEYS = _NO_HEADS | {"feed_forward_length": FF, "wkv.head_size": 64}
_RWKV7_RANKS = {f"attention.{one}_lora_rank": 32 for one in ("decay", "iclr", "value_residual_mix", "gate")}
_RWKV_AROUND: Shapes = (
    _EMBEDDING | _OUTPUT | {"output_norm.bias": (D,), "token_embd_norm.weight": (D,), "token_embd_norm.bias": (D,)}
)

_BERT: Shapes = {
    **{f"attn_{one}.weight": (D, D) for one in ("q", "k", "v", "output")},
    **{f"attn_{one}.bias": (D,) for one in ("q", "k", "v", "output")},
    **{f"{one}_norm.{part}": (D,) for one in ("attn_output", "layer_output") for part in ("weight", "bias")},
}
_BERT_AROUND: Shapes = {
    "token_embd.weight": (D, VOCAB),
    "token_types.weight": (D, 2),
    "token_embd_norm.weight": (D,),
    "token_embd_norm.bias": (D,),
}
_BERT_KEYS = {"attention.causal": False, "attention.head_count_kv": H, "pooling_type": 1}

_T5_BLOCK: Shapes = {
    "attn_norm.weight": (D,),
    **{f"attn_{one}.weight": (D, D) for one in ("q", "k", "v", "o")},
    "attn_rel_b.weight": (H, 32),
    **_FEED_FORWARD,
}
_T5_CROSS: Shapes = {
    "cross_attn_norm.weight": (D,),
    **{f"cross_attn_{one}.weight": (D, D) for one in ("q", "k", "v", "o")},
}


@dataclass(frozen=True)
class Model:
    name: str
    layers: tuple[Shapes, ...]
    keys: dict[str, Any] = field(default_factory=dict)
    around: Shapes = field(default_factory=lambda: _EMBEDDING | _OUTPUT)
    kind: Kind = "decoder"
    arch: str = ""  # the name, where empty
    weights: str = "F16"

    def write(self, folder: Path) -> Path:
        """Its file, ``folder``/NAME.gguf."""
        path = folder / f"{self.name}.gguf"
        arch = self.arch or self.name
        writer = gguf.GGUFWriter(path, arch)
        writer.add_string("tokenizer.ggml.model", "no_vocab")
        writer.add_uint32("tokenizer.ggml.token_type_count", 2)
        for key, value in (_KEYS | {"block_count": len(self.layers)} | self.keys).items():
            _add(writer, f"{arch}.{key}", value)
        shapes = dict(self.around)
        for index, layer in enumerate(self.layers):
            shapes |= {f"blk.{index}.{name}": shape for name, shape in layer.items()}
        for name, shape in shapes.items():
            kind = _type_of(name, shape, self.weights)
            values = _random(f"{self.name} {name}", shape)
            if kind.name == "F32":
                writer.add_tensor(name, values)
            else:
                writer.add_tensor(name, gguf.quants.quantize(values, kind), raw_dtype=kind)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return path


def _add(writer: gguf.GGUFWriter, key: str, value: Any) -> None:
    match value:
        case bool():
            writer.add_bool(key, value)
        case int():
            writer.add_uint32(key, value)
        case float():
            writer.add_float32(key, value)
        case list():
            writer.add_array(key, value)


# What llama.cpp computes with element by element, or wants as floats.
_FLOATS = (
    "norm",
    "conv",
    "ssm_a",
    "ssm_d",
    "lerp",
    "first",
    "bias",
    "gate_inp",
    "rel_b",
    "decay.weight",
    "position_",
    "token_types",
)


def _type_of(name: str, shape: tuple[int, ...], weights: str) -> gguf.GGMLQuantizationType:
    if len(shape) == 1 or any(part in name for part in _FLOATS):
        return gguf.GGMLQuantizationType.F32
    block = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[weights]][0]
    return gguf.GGMLQuantizationType[weights if shape[0] % block == 0 else "F16"]


def _random(seed: str, shape: tuple[int, ...]) -> np.ndarray:
    """GGUF's shapes name the row's length first, numpy's last."""
    chance = np.random.default_rng(zlib.crc32(seed.encode()))
    values = chance.standard_normal(shape[::-1], dtype=np.float32)
    if "norm.weight" in seed or "ln.weight" in seed:
        return 1 + values / 10
    if seed.endswith("ssm_a"):
        return -np.abs(values) - 0.1
    return values / np.float32(shape[0] ** 0.5 if len(shape) > 1 else 10)


_LLAMA = _ATTENTION | _FEED_FORWARD
_MIXTRAL = _ATTENTION | _experts(FF)
_QWEN3 = _ATTENTION | _QK_NORM
_GEMMA3 = _QWEN3 | _POST_NORMS | _FEED_FORWARD
_PHI2 = _ATTENTION | _QKV_BIAS | {"attn_norm.bias": (D,), "attn_output.bias": (D,)} | _BIASED_MLP
_PHI3 = _FUSED_QKV | _FEED_FORWARD | {"ffn_up.weight": (D, 2 * FF)}
_PHI3 = {name: shape for name, shape in _PHI3.items() if name != "ffn_gate.weight"}
_DEEPSEEK2_MOE = _LATENT | _experts(EXPERT_FF) | _SHARED_EXPERT | {"exp_probs_b.bias": (EXPERTS,)}
_MODERN_BERT = {
    "attn_norm.weight": (D,),
    "attn_qkv.weight": (D, 3 * D),
    "attn_output.weight": (D, D),
    "ffn_norm.weight": (D,),
    "ffn_up.weight": (D, 2 * FF),
    "ffn_down.weight": (FF, D),
}
_QWEN3NEXT_FFN = {
    name: shape for name, shape in (_experts(EXPERT_FF) | _SHARED_EXPERT).items() if name != "ffn_norm.weight"
} | {"post_attention_norm.weight": (D,), "ffn_gate_inp_shexp.weight": (D,)}
_DOUBLE_QUERY = _QWEN3 | {"attn_q.weight": (D, 2 * D)}
_GPT2 = (
    _FUSED_QKV
    | {"attn_qkv.weight": (D, 3 * D), "attn_qkv.bias": (3 * D,), "attn_norm.bias": (D,), "attn_output.bias": (D,)}
    | {"ffn_norm.weight": (D,), "ffn_norm.bias": (D,)}
    | _BIASED_MLP
)
_BLOOM_AROUND = (
    _EMBEDDING | {"token_embd_norm.weight": (D,), "token_embd_norm.bias": (D,), "output_norm.bias": (D,)} | _OUTPUT
)
_TIED = _EMBEDDING
_BIASED_END = _EMBEDDING | _OUTPUT | {"output_norm.bias": (D,), "output.bias": (VOCAB,)}

MODELS: tuple[Model, ...] = (
    Model("llama", (_LLAMA,) * 2),
    Model("llama-q8", (_LLAMA,) * 2, arch="llama", weights="Q8_0"),
    Model("llama-q4", (_LLAMA,) * 2, arch="llama", weights="Q4_0"),
    Model("llama-bf16", (_LLAMA,) * 2, arch="llama", weights="BF16"),
    Model("mixtral", (_MIXTRAL,) * 2, _EXPERT_KEYS, arch="llama"),
    Model("qwen2", (_LLAMA | _QKV_BIAS,) * 2, around=_TIED),
    Model("qwen2vl", (_LLAMA | _QKV_BIAS,) * 2, {"rope.dimension_sections": [16, 8, 8, 0]}),
    Model("qwen3", (_QWEN3 | _FEED_FORWARD,) * 2),
    Model("qwen3moe", (_QWEN3 | _experts(EXPERT_FF),) * 2, _EXPERT_KEYS, weights="Q8_0"),
    # For benchmarks and as a seed: more nodes than any model of everyday size.
    Model("qwen3moe-deep", (_QWEN3 | _experts(EXPERT_FF),) * 32, _EXPERT_KEYS, arch="qwen3moe"),
    Model(
        "qwen3next",
        (_DELTA_NET | _QWEN3NEXT_FFN, _DOUBLE_QUERY | _QWEN3NEXT_FFN),
        _EXPERT_KEYS | _DELTA_NET_KEYS,
        kind="float_cache",
    ),
    Model(
        "gemma2",
        (_LLAMA | _POST_NORMS,) * 2,
        _SWA_KEYS | {"attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0, "attention.value_length": HEAD},
        around=_TIED,
    ),
    Model("gemma3", (_GEMMA3,) * 2, _SWA_KEYS, around=_TIED),
    Model("phi2", (_PHI2,) * 2, around=_BIASED_END),
    Model("phi3", (_PHI3,) * 2),
    Model(
        "gpt2",
        (_GPT2,) * 2,
        {"attention.head_count_kv": H},
        around=_EMBEDDING | _OUTPUT | {"output_norm.bias": (D,), "position_embd.weight": (D, N_CTX_TRAIN)},
    ),
    Model("bloom", (_GPT2,) * 2, {"attention.head_count_kv": H}, around=_BLOOM_AROUND),
    Model("gpt-oss", (_GPT_OSS,) * 2, _EXPERT_KEYS | _SWA_KEYS),
    Model("deepseek2", (_LATENT | _FEED_FORWARD, _DEEPSEEK2_MOE), _EXPERT_KEYS | _LATENT_KEYS, kind="float_cache"),
    Model("mamba", (_MAMBA,) * 2, _NO_HEADS | _MAMBA_KEYS, kind="float_cache"),
    Model("mamba2", (_MAMBA2,) * 2, _NO_HEADS | _MAMBA2_KEYS, kind="float_cache"),
    Model(
        "granitehybrid",
        (_MAMBA2 | _FEED_FORWARD, _LLAMA),
        _MAMBA2_KEYS | {"attention.head_count_kv": [0, H_KV]},
        kind="float_cache",
    ),
    Model(
        "lfm2",
        (_SHORT_CONVOLUTION | _FEED_FORWARD, _QWEN3 | _FEED_FORWARD),
        {"shortconv.l_cache": 3, "attention.head_count_kv": [0, H_KV]},
        around={"token_embd.weight": (D, VOCAB), "token_embd_norm.weight": (D,)},
        kind="float_cache",
    ),
    Model(
        "rwkv6",
        (_RWKV6,) * 2,
        _RWKV_KEYS | {"time_mix_extra_dim": 32, "time_decay_extra_dim": 64, "rescale_every_n_layers": 2},
        around=_RWKV_AROUND,
        kind="float_cache",
    ),
    Model("rwkv7", (_RWKV7,) * 2, _RWKV_KEYS | _RWKV7_RANKS, around=_RWKV_AROUND, kind="float_cache"),
    Model(
        "bert",
        (_BERT | _BIASED_MLP,) * 2,
        _BERT_KEYS,
        around=_BERT_AROUND | {"position_embd.weight": (D, N_CTX_TRAIN)},
        kind="embedding",
    ),
    Model(
        "nomic-bert",
        (_BERT | {name: shape for name, shape in _FEED_FORWARD.items() if name != "ffn_norm.weight"},) * 2,
        _BERT_KEYS,
        around=_BERT_AROUND,
        kind="embedding",
    ),
    Model(
        "modern-bert",
        (_MODERN_BERT,) * 2,
        _BERT_KEYS | {"attention.sliding_window": 64, "attention.sliding_window_pattern": 2},
        around=_EMBEDDING | {"token_embd_norm.weight": (D,)},
        kind="embedding",
    ),
    Model("gemma-embedding", (_GEMMA3,) * 2, _SWA_KEYS | {"pooling_type": 1}, around=_TIED, kind="embedding"),
)
# A T5's two halves have tensors of their own, so it is not a stack of layers.
T5 = Model(
    "t5",
    ({}, {}),
    {"attention.head_count_kv": H, "attention.relative_buckets_count": 32, "decoder_start_token_id": 0},
    around={
        "token_embd.weight": (D, VOCAB),
        "enc.output_norm.weight": (D,),
        "dec.output_norm.weight": (D,),
        **{f"enc.blk.{index}.{name}": shape for index in range(2) for name, shape in _T5_BLOCK.items()},
        **{f"dec.blk.{index}.{name}": shape for index in range(2) for name, shape in (_T5_BLOCK | _T5_CROSS).items()},
    },
    kind="encoder_decoder",
)
BY_NAME = {model.name: model for model in (*MODELS, T5)}
