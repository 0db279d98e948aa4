"""Tiny models of many architectures: one row each, random weights, the same bytes every time.

They say nothing sensible. They make llama.cpp build the graphs that a real model of their kind makes.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import gguf
import numpy as np

from recordings import parts

# float_cache: a decoder whose cache, or a part of it, llama.cpp cannot keep quantized and move up.
Kind = Literal["decoder", "float_cache", "embedding", "encoder_decoder"]


@dataclass(frozen=True)
class Model:
    name: str
    layers: tuple[parts.Shapes, ...]
    keys: dict[str, Any] = field(default_factory=dict)
    around: parts.Shapes = field(default_factory=lambda: parts.EMBEDDING | parts.OUTPUT)
    kind: Kind = "decoder"
    arch: str = ""  # the name, where empty
    weights: str = "F16"

    def write(self, folder: Path, *, words: bool = False) -> Path:
        """Its file, ``folder``/NAME.gguf. With ``words`` it has a vocabulary, without which no engine can load it."""
        path = folder / f"{self.name}.gguf"
        arch = self.arch or self.name
        writer = gguf.GGUFWriter(path, arch)
        if words:
            _add_words(writer)
        else:
            writer.add_string("tokenizer.ggml.model", "no_vocab")
        writer.add_uint32("tokenizer.ggml.token_type_count", 2)
        for key, value in (parts.KEYS | {"block_count": len(self.layers)} | self.keys).items():
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


def _add_words(writer: gguf.GGUFWriter) -> None:
    words = ["<unk>", "<s>", "</s>", *(f"w{number}" for number in range(3, parts.VOCAB))]
    writer.add_string("tokenizer.ggml.model", "llama")
    writer.add_array("tokenizer.ggml.tokens", words)
    writer.add_array("tokenizer.ggml.scores", [0.0] * len(words))
    writer.add_array("tokenizer.ggml.token_type", [2, 3, 3] + [1] * (len(words) - 3))


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
    *("norm", "conv", "lerp", "first", "bias", "gate_inp", "ssm_a", "ssm_d"),
    *("rel_b", "decay.weight", "position_embd", "token_types"),
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


MODELS: tuple[Model, ...] = (
    Model("llama", (parts.LLAMA,) * 2),
    Model("llama-q8", (parts.LLAMA,) * 2, arch="llama", weights="Q8_0"),
    Model("llama-q4", (parts.LLAMA,) * 2, arch="llama", weights="Q4_0"),
    Model("llama-bf16", (parts.LLAMA,) * 2, arch="llama", weights="BF16"),
    Model("mixtral", (parts.MIXTRAL,) * 2, parts.EXPERT_KEYS, arch="llama"),
    Model("qwen2", (parts.LLAMA | parts.QKV_BIAS,) * 2, around=parts.TIED),
    Model("qwen2vl", (parts.LLAMA | parts.QKV_BIAS,) * 2, {"rope.dimension_sections": [16, 8, 8, 0]}),
    Model("qwen3", (parts.QWEN3 | parts.FEED_FORWARD,) * 2),
    Model("qwen3moe", (parts.QWEN3 | parts.experts(parts.EXPERT_FF),) * 2, parts.EXPERT_KEYS, weights="Q8_0"),
    # For benchmarks and as a seed: more nodes than any model of everyday size.
    Model("qwen3moe-deep", (parts.QWEN3 | parts.experts(parts.EXPERT_FF),) * 32, parts.EXPERT_KEYS, arch="qwen3moe"),
    Model(
        "qwen3next",
        (parts.DELTA_NET | parts.QWEN3NEXT_FFN, parts.DOUBLE_QUERY | parts.QWEN3NEXT_FFN),
        parts.EXPERT_KEYS | parts.DELTA_NET_KEYS,
        kind="float_cache",
    ),
    Model(
        "gemma2",
        (parts.LLAMA | parts.POST_NORMS,) * 2,
        parts.SWA_KEYS
        | {"attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0, "attention.value_length": parts.HEAD},
        around=parts.TIED,
    ),
    Model("gemma3", (parts.GEMMA3,) * 2, parts.SWA_KEYS, around=parts.TIED),
    Model("phi2", (parts.PHI2,) * 2, around=parts.BIASED_END),
    Model("phi3", (parts.PHI3,) * 2),
    Model(
        "gpt2",
        (parts.GPT2,) * 2,
        {"attention.head_count_kv": parts.H},
        around=parts.EMBEDDING
        | parts.OUTPUT
        | {"output_norm.bias": (parts.D,), "position_embd.weight": (parts.D, parts.N_CTX_TRAIN)},
    ),
    Model("bloom", (parts.GPT2,) * 2, {"attention.head_count_kv": parts.H}, around=parts.BLOOM_AROUND),
    Model("gpt-oss", (parts.GPT_OSS,) * 2, parts.EXPERT_KEYS | parts.SWA_KEYS),
    Model(
        "deepseek2",
        (parts.LATENT | parts.FEED_FORWARD, parts.DEEPSEEK2_MOE),
        parts.EXPERT_KEYS | parts.LATENT_KEYS,
        kind="float_cache",
    ),
    Model("mamba", (parts.MAMBA,) * 2, parts.NO_HEADS | parts.MAMBA_KEYS, kind="float_cache"),
    Model("mamba2", (parts.MAMBA2,) * 2, parts.NO_HEADS | parts.MAMBA2_KEYS, kind="float_cache"),
    Model(
        "granitehybrid",
        (parts.MAMBA2 | parts.FEED_FORWARD, parts.LLAMA),
        parts.MAMBA2_KEYS | {"attention.head_count_kv": [0, parts.H_KV]},
        kind="float_cache",
    ),
    Model(
        "lfm2",
        (parts.SHORT_CONVOLUTION | parts.FEED_FORWARD, parts.QWEN3 | parts.FEED_FORWARD),
        {"shortconv.l_cache": 3, "attention.head_count_kv": [0, parts.H_KV]},
        around={"token_embd.weight": (parts.D, parts.VOCAB), "token_embd_norm.weight": (parts.D,)},
        kind="float_cache",
    ),
    Model(
        "rwkv6",
        (parts.RWKV6,) * 2,
        parts.RWKV_KEYS | {"time_mix_extra_dim": 32, "time_decay_extra_dim": 64, "rescale_every_n_layers": 2},
        around=parts.RWKV_AROUND,
        kind="float_cache",
    ),
    Model(
        "rwkv7", (parts.RWKV7,) * 2, parts.RWKV_KEYS | parts.RWKV7_RANKS, around=parts.RWKV_AROUND, kind="float_cache"
    ),
    Model(
        "bert",
        (parts.BERT | parts.BIASED_MLP,) * 2,
        parts.BERT_KEYS,
        around=parts.BERT_AROUND | {"position_embd.weight": (parts.D, parts.N_CTX_TRAIN)},
        kind="embedding",
    ),
    Model(
        "nomic-bert",
        (parts.BERT | {name: shape for name, shape in parts.FEED_FORWARD.items() if name != "ffn_norm.weight"},) * 2,
        parts.BERT_KEYS,
        around=parts.BERT_AROUND,
        kind="embedding",
    ),
    Model(
        "modern-bert",
        (parts.MODERN_BERT,) * 2,
        parts.BERT_KEYS | {"attention.sliding_window": 64, "attention.sliding_window_pattern": 2},
        around=parts.EMBEDDING | {"token_embd_norm.weight": (parts.D,)},
        kind="embedding",
    ),
    Model(
        "gemma-embedding",
        (parts.GEMMA3,) * 2,
        parts.SWA_KEYS | {"pooling_type": 1},
        around=parts.TIED,
        kind="embedding",
    ),
)
# A T5's two halves have tensors of their own, so it is not a stack of layers.
T5 = Model(
    "t5",
    ({}, {}),
    {"attention.head_count_kv": parts.H, "attention.relative_buckets_count": 32, "decoder_start_token_id": 0},
    around={
        "token_embd.weight": (parts.D, parts.VOCAB),
        "enc.output_norm.weight": (parts.D,),
        "dec.output_norm.weight": (parts.D,),
        **{f"enc.blk.{index}.{name}": shape for index in range(2) for name, shape in parts.T5_BLOCK.items()},
        **{
            f"dec.blk.{index}.{name}": shape
            for index in range(2)
            for name, shape in (parts.T5_BLOCK | parts.T5_CROSS).items()
        },
    },
    kind="encoder_decoder",
)
BY_NAME = {model.name: model for model in (*MODELS, T5)}
