"""How much memory a model takes: each layer's weights and cache, the output head, and the room to compute in."""

from __future__ import annotations

import mmap
import re
from pathlib import Path

import msgspec

from rpcmesh.errors import RpcmeshError
from rpcmesh.plan import gguf_header
from rpcmesh.plan.gguf_header import Header, HeaderError, Value

# The engine keeps keys and values as f16.
CACHE_ELEMENT_BYTES = 2
# llama.cpp rounds the cache up to so many cells.
CACHE_CELLS_UNIT = 256
ACTIVATION_BYTES = 4
# A float of each place of a batch for each cell: the attention's mask, in f32 and converted.
MASK_BYTES = 4
_LAYER = re.compile(r"blk\.(\d+)\.")
INPUT = "token_embd.weight"
OUTPUT = "output.weight"


class ModelFacts(msgspec.Struct, frozen=True):
    """Bytes, by layer in their order. ``cache_bytes`` are of one token in one layer's KV cache."""

    layer_bytes: tuple[int, ...]
    cache_bytes: tuple[int, ...]
    output_bytes: int
    n_ctx_train: int
    n_embd: int
    n_ff: int

    def items(self, n_cells: int) -> tuple[int, ...]:
        """What cannot be divided, in the order in which it lies on devices: layers with their caches, then the head."""
        cells = -(-n_cells // CACHE_CELLS_UNIT) * CACHE_CELLS_UNIT
        layers = zip(self.layer_bytes, self.cache_bytes, strict=True)
        return (*(weights + cells * cache for weights, cache in layers), self.output_bytes)

    def compute_bytes(self, n_cells: int, n_batch: int) -> int:
        """What each device needs beside what it holds, to compute ``n_batch`` tokens at a time.

        With flash attention, which llama.cpp chooses where it can. SmolLM2 with 4,096 and 32,768 cells takes 17.5 and
        45.5 MiB, and this says 21.5 and 77.5.
        """
        activations = (4 * self.n_embd + 3 * self.n_ff) * ACTIVATION_BYTES
        return n_batch * (activations + n_cells * MASK_BYTES)


def read(path: Path) -> ModelFacts | None:
    """The facts of the model at ``path``; None for one whose needs we cannot tell: llama.cpp then decides alone.

    Raises :class:`RpcmeshError` when it cannot be read.
    """
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
            header = gguf_header.parse(mapped)
    except (OSError, ValueError) as error:
        raise RpcmeshError(f"model {str(path)!r} cannot be read: {error}") from error
    except HeaderError as error:
        hint = error.hint or "fetch or convert it again"
        raise HeaderError(f"model {str(path)!r}: {error.message}", hint=hint) from error
    return of_header(header)


def of_header(header: Header) -> ModelFacts | None:
    """None for a model in several files, and for one that says too little of its attention (state space models)."""
    settings = _Settings(header)
    n_layer = settings.number("block_count")
    cache = settings.cache_bytes(n_layer)
    if not n_layer or cache is None or settings.n_files > 1:
        return None
    layers = [0] * n_layer
    others = 0
    for name, n_bytes in header.tensor_bytes.items():
        found = _LAYER.match(name)
        if found is not None and int(found[1]) < n_layer:
            layers[int(found[1])] += n_bytes
        elif name != INPUT:
            others += n_bytes
    if OUTPUT not in header.tensor_bytes:
        # Tied: the head is a second copy of the embedding.
        others += header.tensor_bytes.get(INPUT, 0)
    n_experts_used = settings.number("expert_used_count")
    return ModelFacts(
        layer_bytes=tuple(layers),
        cache_bytes=cache,
        output_bytes=others,
        n_ctx_train=settings.number("context_length"),
        n_embd=settings.number("embedding_length"),
        n_ff=max(
            settings.number("feed_forward_length"), n_experts_used * settings.number("expert_feed_forward_length")
        ),
    )


class _Settings:
    """The settings of the model's own architecture."""

    def __init__(self, header: Header) -> None:
        self._all = header.settings
        self._arch = header.settings.get("general.architecture")

    @property
    def n_files(self) -> int:
        return _largest(self._all.get("split.count"))

    def number(self, name: str) -> int:
        """0 where it is not said, the largest where each layer has its own."""
        return _largest(self._all.get(f"{self._arch}.{name}"))

    def cache_bytes(self, n_layer: int) -> tuple[int, ...] | None:
        n_heads = self.number("attention.head_count")
        if not n_heads:
            return None
        per_head = self.number("embedding_length") // n_heads
        width = (self.number("attention.key_length") or per_head) + (self.number("attention.value_length") or per_head)
        kv_heads = self._all.get(f"{self._arch}.attention.head_count_kv", n_heads)
        if not isinstance(kv_heads, tuple):
            kv_heads = (kv_heads,) * n_layer if isinstance(kv_heads, int) else ()
        if len(kv_heads) != n_layer:
            return None
        return tuple(int(heads) * width * CACHE_ELEMENT_BYTES for heads in kv_heads)


def _largest(value: Value | None) -> int:
    match value:
        case int():
            return value
        case tuple() if value:
            return int(max(value))
        case _:
            return 0
