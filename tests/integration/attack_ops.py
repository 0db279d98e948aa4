"""Attacks by what is computed: ops, their sources, shapes and parameters, and numbers that tensors hold."""

from __future__ import annotations

from collections.abc import Callable

from attack_kinds import Attack, Weakness, f32, i32, node, of_kind
from rpc_worker import ADD, F16, F32, I32, I64, Q8_0, Q8_1, Buffer, Command, frame, set_tensor, u32, u64

ACC, GROUP_NORM, MUL_MAT, MUL_MAT_ID, CPY, CONT, GET_ROWS, SET_ROWS, ROPE = 5, 27, 29, 30, 34, 35, 40, 42, 48
COUNT_EQUAL, SSM_SCAN, RWKV_WKV6, RWKV_WKV7, UNARY, MAP_CUSTOM1, CUSTOM, GLU, OP_COUNT = (
    19,
    77,
    82,
    84,
    91,
    92,
    95,
    100,
    101,
)
MIB = 1 << 20

NOWHERE: dict[str, object] = {"buffer": 0, "data": 0}
ROWS_4 = f32(64, 4)
# More rows than any address has of them.
ALL_ROWS = 2**31 - 1
# Where no code lies.
POINTER = (0x4141_4141, 0x4141, 1)
ROPE_OF_NO_SECTION = (0, 64, 8, *[0] * 8, 8, -8)
IDS_AT = 4096


def rows_from(address: int) -> tuple[int, int]:
    """Stride and number of a row that begins at ``address`` or up to 60 bytes before it, if row 0 lies at 0."""
    stride = next(step for step in range(1 << 17, 1 << 20, 4) if address % step < 64)
    return stride, address // stride


def with_ids(number: int, attack: Callable[[Buffer], bytes], at: int = 0, count: int = 16) -> Callable[[Buffer], bytes]:
    """The attack, once ``number`` stands in each of the 32-bit numbers at ``at``."""
    return lambda b: set_tensor(b.bytes_at(at, 4 * count), 0, u32(*[number] * count)) + attack(b)


def at_the_buffers_object(attack: Callable[[Buffer, dict[str, object]], bytes]) -> Callable[[Buffer], bytes]:
    """The attack on the worker's own object for the buffer, which lies where a stock server's handle says."""

    def of(buffer: Buffer) -> bytes:
        stride, row = rows_from(buffer.handle)
        clear = frame(Command.BUFFER_CLEAR, u64(buffer.handle) + b"\x00")
        victim = f32(64, ALL_ROWS) | NOWHERE | {"nb": (4, stride, 0, 0)}
        return clear + with_ids(row, lambda b: attack(b, victim), IDS_AT, 1)(buffer)

    return of


def fill(buffer: Buffer, byte: int) -> bytes:
    """The row at the buffer's begin."""
    return set_tensor(buffer.bytes_at(0, 256), 0, bytes([byte] * 256))


def ids(buffer: Buffer) -> dict[str, object]:
    return i32(1) | {"data": buffer.base + IDS_AT}


FORBIDDEN = (
    Attack("op_beyond_the_last", Weakness.OPS, "op_forbidden", node(OP_COUNT, f32(64))),
    Attack("unary_beyond_the_last", Weakness.OPS, "op_parameter", node(UNARY, f32(64), params=(99,))),
    Attack("glu_beyond_the_last", Weakness.OPS, "op_parameter", node(GLU, f32(64), ne=(32,), params=(99,))),
    *(
        Attack(f"function_pointer_{op}", Weakness.FUNCTION_POINTER, "op_forbidden", node(op, f32(64), params=POINTER))
        for op in range(MAP_CUSTOM1, CUSTOM + 1)
    ),
)

ADDRESSES = (
    Attack(
        "read_anywhere",
        Weakness.ADDRESS,
        "buffer_unknown",
        at_the_buffers_object(lambda b, victim: node(GET_ROWS, victim, ids(b), ne=(64, 1))(b)),
        loot_bytes=256,
    ),
    Attack(
        "write_anywhere",
        Weakness.ADDRESS,
        "buffer_unknown",
        at_the_buffers_object(lambda b, victim: fill(b, 0x41) + node(SET_ROWS, f32(64, 1), ids(b), **victim)(b)),
    ),
    Attack("address_without_a_buffer", Weakness.ADDRESS, "buffer_unknown", node(UNARY, f32(64) | {"buffer": 0})),
)

SHAPES = (
    Attack("product_of_nothing", Weakness.SOURCES, "op_sources", node(MUL_MAT, ne=(4, 4))),
    Attack("sum_of_one", Weakness.SOURCES, "op_sources", node(ADD, ROWS_4, ne=(64, 4))),
    Attack("get_rows_of_another_length", Weakness.SHAPES, "op_shape", node(GET_ROWS, ROWS_4, i32(3), ne=(64, 4))),
    Attack("set_rows_of_another_length", Weakness.SHAPES, "op_shape", node(SET_ROWS, f32(32, 3), i32(3), ne=(64, 4))),
    Attack("factors_that_do_not_fit", Weakness.SHAPES, "op_shape", node(MUL_MAT, ROWS_4, f32(32, 4), ne=(4, 4))),
    Attack(
        "factor_without_a_product", Weakness.SHAPES, "op_type", node(MUL_MAT, of_kind(Q8_1, 64, 4), ROWS_4, ne=(4, 4))
    ),
    Attack("summand_that_does_not_repeat", Weakness.SHAPES, "op_shape", node(ADD, ROWS_4, f32(63), ne=(64, 4))),
    Attack(
        "part_behind_the_whole",
        Weakness.SHAPES,
        "op_parameter",
        node(ACC, f32(64), f32(8), params=(256, 256, 256, 1 << 30)),
    ),
    Attack("norm_of_0_groups", Weakness.SHAPES, "op_parameter", node(GROUP_NORM, f32(4, 3, 8), ne=(4, 3, 8))),
    Attack(
        "rope_of_more_than_a_row",
        Weakness.SHAPES,
        "op_parameter",
        node(ROPE, f32(64, 8, 5), i32(5), ne=(64, 8, 5), params=(0, 66, 2)),
    ),
)

# Kernels that leave their tensors though every tensor lies in its buffer.
KERNELS = (
    Attack(
        "transform_of_a_row_into_one_number",
        Weakness.HADAMARD,
        "op_parameter",
        node(MUL_MAT, f32(MIB), f32(MIB), ne=(1,), back=4, params=(0, 1)),
        size=8 * MIB,
    ),
    Attack(
        "long_rows_into_blocks",
        Weakness.LONG_ROWS,
        "op_shape",
        node(CPY, of_kind(F16, MIB), of_kind(Q8_0, 32, MIB // 32), **of_kind(Q8_0, 32, MIB // 32)),
        size=4 * MIB,
    ),
    Attack(
        "blocks_with_gaps",
        Weakness.GAPS,
        "op_shape",
        node(CONT, of_kind(Q8_0, 32, 30_000, nb=(34, 68, 68, 68)), **of_kind(Q8_0, 32 * 30_000)),
        size=2 * MIB,
    ),
    Attack(
        "copy_laid_out_otherwise",
        Weakness.COPY_STRIDES,
        "op_shape",
        node(CPY, of_kind(Q8_0, 32, 16), of_kind(F32, 32, 16, nb=(4, MIB // 2, 0, 0)), back=2048, ne=(32, 16)),
        size=8 * MIB,
    ),
    Attack(
        "heads_of_one_number",
        Weakness.RWKV7_HEADS,
        "op_shape",
        node(RWKV_WKV7, *[f32(1)] * 7, ne=(1, 2), back=8),
    ),
    Attack(
        "sections_that_add_up_to_0",
        Weakness.ROPE_SECTIONS,
        "op_parameter",
        node(ROPE, f32(64, 8, 5), i32(20), ne=(64, 8, 5), params=ROPE_OF_NO_SECTION),
    ),
    Attack(
        "fewer_tokens_than_sequences",
        Weakness.RWKV6_TOKENS,
        "op_shape",
        node(RWKV_WKV6, *[f32(4)] * 5, f32(16, 2), ne=(4, 9)),
    ),
    Attack(
        "equality_in_three_dimensions",
        Weakness.COUNT_EQUAL,
        "op_shape",
        node(COUNT_EQUAL, *[of_kind(I32, 1, 4 * MIB, 2)] * 2, **of_kind(I64, 1)),
        size=32 * MIB,
    ),
)

# Nothing in a header shows these.
VALUES = (
    Attack("row_to_read", Weakness.VALUES, "", with_ids(10**9, node(GET_ROWS, ROWS_4, i32(1), ne=(64, 1)))),
    Attack("row_to_write", Weakness.VALUES, "", with_ids(10**9, node(SET_ROWS, f32(64, 1), i32(1), ne=(64, 4)))),
    Attack(
        "expert",
        Weakness.VALUES,
        "",
        with_ids(10**9, node(MUL_MAT_ID, f32(32, 6, 16), f32(32, 1, 5), i32(2, 5), ne=(6, 2, 5))),
    ),
    Attack(
        "state",
        Weakness.VALUES,
        "",
        with_ids(
            1 << 30,
            node(
                SSM_SCAN,
                *(f32(16, 4, 8, 3), f32(4, 8, 8), f32(8, 8), f32(1, 8), f32(16, 2, 8), f32(16, 2, 8), i32(1)),
                ne=(4 * 8 * 8 + 16 * 4 * 8,),
                params=(1,),
            ),
        ),
    ),
)

ALL = (*FORBIDDEN, *ADDRESSES, *SHAPES, *KERNELS)
