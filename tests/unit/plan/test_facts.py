"""A model's needs by its header: what lies in which layer, and what a token costs there."""

from __future__ import annotations

from pathlib import Path

import pytest

from rpcmesh.errors import RpcmeshError
from rpcmesh.plan import facts
from rpcmesh.plan.facts import ModelFacts
from rpcmesh.plan.gguf_header import Header, Value

SETTINGS: dict[str, Value] = {
    "general.architecture": "llama",
    "llama.block_count": 2,
    "llama.context_length": 4096,
    "llama.embedding_length": 512,
    "llama.feed_forward_length": 2048,
    "llama.attention.head_count": 8,
    "llama.attention.head_count_kv": 2,
}
TENSORS = {
    "token_embd.weight": 1000,
    "blk.0.attn_q.weight": 10,
    "blk.0.ffn_up.weight": 20,
    "blk.1.attn_q.weight": 40,
    "output_norm.weight": 3,
}
# Two heads of 64 numbers, for keys and values, of two bytes.
CACHE = 2 * (64 + 64) * 2


def of(settings: dict[str, Value] | None = None, tensors: dict[str, int] | None = None) -> ModelFacts | None:
    return facts.of_header(Header({**SETTINGS, **(settings or {})}, {**TENSORS, **(tensors or {})}))


def test_a_tied_head_is_a_second_copy_of_the_embedding() -> None:
    assert of() == ModelFacts((30, 40), (CACHE, CACHE), 1003, n_ctx_train=4096, n_embd=512, n_ff=2048)


def test_a_head_of_its_own_counts_alone_for_the_embedding_stays_with_the_coordinator() -> None:
    found = of(tensors={"output.weight": 500})
    assert found is not None
    assert found.output_bytes == 503


@pytest.mark.parametrize(
    ("settings", "cache"),
    [
        ({"llama.attention.head_count_kv": (2, 0)}, (CACHE, 0)),
        ({"llama.attention.key_length": 128, "llama.attention.value_length": 32}, (2 * 160 * 2,) * 2),
    ],
)
def test_heads_may_differ_by_layer_and_in_their_width(settings: dict[str, Value], cache: tuple[int, ...]) -> None:
    found = of(settings)
    assert found is not None
    assert found.cache_bytes == cache


@pytest.mark.parametrize(
    "settings",
    [
        {"llama.block_count": 0},
        {"llama.attention.head_count": 0},
        {"llama.attention.head_count_kv": (2, 2, 2)},
        {"llama.attention.head_count_kv": "two"},
        {"split.count": 2},
        {"general.architecture": "mamba"},
    ],
)
def test_of_a_model_that_says_too_little_nothing_is_known(settings: dict[str, Value]) -> None:
    assert of(settings) is None


def test_a_cache_is_rounded_up_as_llama_cpp_does() -> None:
    found = ModelFacts((10, 20), (1, 2), 5, n_ctx_train=1, n_embd=1, n_ff=1)
    assert found.items(257) == (10 + 512, 20 + 1024, 5)


def test_smollm2_needs_what_the_engine_says_it_takes(smollm2: Path) -> None:
    found = facts.read(smollm2)

    assert found is not None
    assert len(found.layer_bytes) == 30
    # What the engine logs for 4,096 cells, and what it computes in.
    assert sum(found.layer_bytes) + found.output_bytes == 96_576_768
    assert sum(found.items(4096)) - sum(found.items(0)) == 90 << 20
    assert 17.5 * 2**20 < found.compute_bytes(4096, 512) < 25 * 2**20


@pytest.mark.parametrize("content", [None, b"", b"not a model"])
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "m.gguf"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(RpcmeshError, match=r"m\.gguf"):
        facts.read(path)
