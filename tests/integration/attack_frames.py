"""Attacks by lengths, numbers, tensors and graphs as such, whatever is computed. Nothing here connects to anything."""

from __future__ import annotations

from collections.abc import Callable

from attack_kinds import BUFFER_BYTES, Attack, Weakness, node, placed
from rpc_worker import (
    ADD,
    I8,
    Q4_0,
    Buffer,
    Command,
    frame,
    get_tensor,
    graph,
    header,
    set_tensor,
    u32,
    u64,
)

UNARY, FLASH_ATTN_EXT = 91, 74
MOST = 2**31 - 1
# In 64 bits these strides make 82 bytes.
WRAPPING: dict[str, object] = {"ne": (1, 2**32 - 1, 2**29, 2), "nb": (4, 2**32 - 1, 24, 100)}
# 2^46 elements in 64 bytes.
ENDLESS: dict[str, object] = {"ne": (16, 2**14, 2**14, 2**14), "nb": (4, 0, 0, 0)}


def touch(**fields: object) -> Callable[[Buffer], bytes]:
    """A write of one byte into a tensor with these fields."""
    return lambda buffer: set_tensor(placed(buffer, 1, **fields), 0, b"\x00")


def chain(length: int) -> Callable[[Buffer], bytes]:
    """A graph in which each tensor is made of the one before it, and the last is computed."""

    def of(buffer: Buffer) -> bytes:
        links = [placed(buffer, key, op=UNARY, src=(key - 1,)) for key in range(2, length + 1)]
        return graph([length], [placed(buffer, 1), *links])

    return of


LENGTHS = (
    Attack("set_of_2_63_bytes", Weakness.LENGTH, "length_invalid", header(Command.SET_TENSOR, 2**63)),
    Attack("graph_of_2_63_bytes", Weakness.LENGTH, "length_invalid", header(Command.GRAPH_COMPUTE, 2**63)),
    Attack("set_that_claims_1_gib", Weakness.LENGTH_CLAIM, "length_invalid", header(Command.SET_TENSOR, 1 << 30)),
    Attack("graph_that_claims_1_gib", Weakness.LENGTH_CLAIM, "length_invalid", header(Command.GRAPH_COMPUTE, 1 << 30)),
    Attack(
        "set_that_claims_60_mib",
        Weakness.LENGTH_CLAIM,
        "tensor_bounds",
        lambda b: header(Command.SET_TENSOR, 60 << 20) + b.bytes_at() + bytes(9),
    ),
    Attack("get_of_2_62_bytes", Weakness.HUGE_READ, "tensor_bounds", lambda b: get_tensor(b.bytes_at(), 0, 2**62)),
)

BOUNDS = (
    Attack(
        "set_of_more_than_the_tensor",
        Weakness.BOUNDS,
        "tensor_bounds",
        lambda b: set_tensor(b.bytes_at(0, 8), 0, bytes(9)),
    ),
    Attack(
        "get_of_more_than_the_tensor", Weakness.BOUNDS, "tensor_bounds", lambda b: get_tensor(b.bytes_at(0, 8), 0, 9)
    ),
    Attack(
        "elements_of_2_63", Weakness.BOUNDS, "tensor_shape", touch(kind=I8, ne=(MOST, MOST, MOST, 4), nb=(1, 1, 1, 1))
    ),
    Attack("data_before_the_buffer", Weakness.BOUNDS, "tensor_bounds", lambda b: touch(data=b.base - 1)(b)),
    Attack("data_behind_the_buffer", Weakness.BOUNDS, "tensor_bounds", lambda b: touch(data=b.base + b.size)(b)),
    Attack("data_at_0", Weakness.BOUNDS, "tensor_bounds", touch(data=0)),
    Attack("tensor_larger_than_the_buffer", Weakness.BOUNDS, "tensor_bounds", touch(kind=I8, ne=(BUFFER_BYTES + 1,))),
    Attack("row_of_half_a_block", Weakness.BOUNDS, "tensor_shape", touch(kind=Q4_0, ne=(33,))),
    Attack(
        "offset_that_wraps", Weakness.BOUNDS, "tensor_bounds", lambda b: set_tensor(b.bytes_at(16), 2**64 - 8, bytes(4))
    ),
    Attack(
        "memset_beyond_the_tensor",
        Weakness.BOUNDS,
        "tensor_bounds",
        lambda b: frame(Command.MEMSET_TENSOR, b.bytes_at() + u64(1, b.size) + b"\xff"),
    ),
    Attack(
        "copy_beyond_the_target",
        Weakness.BOUNDS,
        "tensor_bounds",
        lambda b: frame(Command.COPY_TENSOR, b.bytes_at(0, 64) + b.bytes_at(128, 63)),
    ),
    Attack(
        "strides_that_leave_the_buffer",
        Weakness.STRIDES,
        "tensor_bounds",
        touch(ne=(4, 2**16), nb=(4, 2**32 - 1, 0, 0)),
    ),
    Attack("strides_that_wrap", Weakness.STRIDES, "tensor_shape", node(ADD, WRAPPING, WRAPPING, **WRAPPING)),
    Attack("endless_sum", Weakness.ENDLESS, "tensor_shape", node(ADD, ENDLESS, ENDLESS, **ENDLESS)),
    Attack(
        "blocks_to_pad_with_gaps",
        Weakness.PADDING,
        "tensor_shape",
        lambda b: frame(Command.INIT_TENSOR, placed(b, 1, kind=Q4_0, ne=(32,), nb=(40, 40, 40, 40))),
    ),
    Attack(
        "alloc_size_without_sources",
        Weakness.PADDING,
        "op_sources",
        lambda b: frame(Command.GET_ALLOC_SIZE, u32(0) + placed(b, 1, op=FLASH_ATTN_EXT) + bytes(2960)),
    ),
)

NUMBERS = (
    Attack("type_that_is_none", Weakness.UNKNOWN_NUMBER, "tensor_type", touch(kind=43, nb=(1, 1, 1, 1))),
    Attack("buffer_of_a_guessed_number", Weakness.UNKNOWN_NUMBER, "buffer_unknown", touch(buffer=0x5555_5555_0000)),
    Attack(
        "buffer_freed_twice",
        Weakness.UNKNOWN_NUMBER,
        "buffer_unknown",
        lambda b: frame(Command.FREE_BUFFER, u64(b.handle)) * 2,
    ),
    Attack(
        "device_that_is_not_there", Weakness.UNKNOWN_NUMBER, "device_unknown", frame(Command.GET_MAX_SIZE, u32(1 << 31))
    ),
    Attack(
        "recompute_of_nothing",
        Weakness.UNKNOWN_NUMBER,
        "recompute_without_graph",
        frame(Command.GRAPH_RECOMPUTE, u32(0)),
    ),
)

REFERENCES = (
    Attack("node_of_id_0", Weakness.REFERENCES, "graph_reference", lambda b: graph([0], [placed(b, 1)])),
    Attack(
        "tensor_of_id_0", Weakness.REFERENCES, "graph_reference", lambda b: graph([1], [placed(b, 1), placed(b, 0)])
    ),
    Attack("node_that_is_not_there", Weakness.REFERENCES, "graph_reference", lambda b: graph([2], [placed(b, 1)])),
    Attack("source_that_is_not_there", Weakness.REFERENCES, "graph_reference", node(UNARY, src=(7,))),
    Attack("node_of_itself", Weakness.REFERENCES, "graph_reference", node(UNARY, src=(99,))),
    Attack(
        "more_tensors_than_bytes",
        Weakness.REFERENCES,
        "graph_length",
        lambda _: frame(Command.GRAPH_COMPUTE, u32(0, 1) + u64(1) + u32(9) + bytes(296)),
    ),
    Attack("chain_of_110000", Weakness.RECURSION, "graph_depth", chain(110_000)),
    Attack("node_twice", Weakness.DUPLICATES, "graph_reference", lambda b: graph([1, 1], [placed(b, 1)])),
)

ALL = (*LENGTHS, *BOUNDS, *NUMBERS, *REFERENCES)
