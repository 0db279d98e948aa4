"""Whoever holds a coordinator's certificate can neither crash, block nor sound out a real worker: frame by frame.

Each attack ended or hung a worker without a guard. Here it ends its own session only, and the next one is served.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from rpc_worker import (
    ADD,
    F32,
    HELLO_REQUEST,
    I8,
    I32,
    Q4_0,
    Q8_1,
    Buffer,
    Client,
    Command,
    Frame,
    assert_cut,
    frame,
    get_tensor,
    graph,
    greet,
    header,
    set_tensor,
    sum_of,
    tensor,
    u32,
    u64,
)
from tunnel_harness import COORDINATOR, NODE, Tunnel, client_tls, dial, eventually, founded, sample

from rpcmesh.native_build import Build
from rpcmesh.tunnel.routes import IngressRoute, rpc_alpn

GPU0 = rpc_alpn("gpu0")
BUFFER_BYTES = 1 << 16
MEMORY_MIB = 64
SERVED_WITHIN_S = 2.0
ACC, GROUP_NORM, MUL_MAT, GET_ROWS, SET_ROWS, ROPE, FLASH_ATTN_EXT = 5, 27, 29, 40, 42, 48, 74
UNARY, MAP_CUSTOM1, CUSTOM, GLU, OP_COUNT = 91, 92, 95, 100, 101
SECRET = sample(BUFFER_BYTES)


@dataclass(frozen=True)
class Target:
    """A real worker behind a real ingress, and the certificate to reach it."""

    worker: subprocess.Popen[bytes]
    tunnel: Tunnel
    port: int
    identity: Path

    @contextlib.contextmanager
    def session(self) -> Iterator[Client]:
        with dial(self.port, client_tls(self.identity, GPU0)) as connection:
            yield greet(connection)

    def refused(self, word: str) -> int:
        return self.tunnel.status().totals.refused.get(word, 0)

    def serves_the_next(self) -> None:
        """The very same process, soon, and nobody's old bytes. Leaves a secret behind for whoever comes next."""
        begin = time.monotonic()
        with self.session() as client:
            buffer = client.alloc(BUFFER_BYTES)
            assert client.read(buffer) == bytes(BUFFER_BYTES)
            client.send(set_tensor(buffer.bytes_at(), 0, SECRET))
            assert client.read(buffer) == SECRET
        assert time.monotonic() - begin < SERVED_WITHIN_S
        assert self.worker.poll() is None


@pytest.fixture(scope="module")
def target(build: Build, tunnel_binary: Path) -> Iterator[Target]:
    with founded(tunnel_binary) as mesh:
        path = mesh.path("gpu0")
        arguments = [str(build.worker), "-H", str(path), "-p", "1", "-t", "1"]
        environment = {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8"}
        with (
            mesh.path("worker.log").open("wb") as log,
            subprocess.Popen(arguments, env=environment, cwd=mesh.root, stdout=log, stderr=log) as worker,
        ):
            try:
                eventually(path.is_socket, "the worker's socket")
                route = IngressRoute(GPU0, path, COORDINATOR)
                identity = mesh.identity("node", mesh.leaf(NODE))
                options = ("--memory-mib", str(MEMORY_MIB), "--handshake-timeout-s", "60", "--lease-wait-ms", "1500")
                coordinator = mesh.identity("coordinator", mesh.leaf(COORDINATOR))
                with mesh.ingress([route], identity, *options) as tunnel:
                    yield Target(worker, tunnel, tunnel.port, coordinator)
            finally:
                worker.kill()


def placed(buffer: Buffer, key: int, /, **fields: object) -> bytes:
    """A tensor at the buffer's begin."""
    return tensor(**{"key": key, "buffer": buffer.handle, "data": buffer.base, **fields})  # type: ignore[arg-type]


def node(op: int, *sources: dict[str, object], **fields: object) -> Callable[[Buffer], bytes]:
    """A graph of one node of this op, whose sources and result all lie in the buffer."""

    def of(buffer: Buffer) -> bytes:
        keys = range(1, len(sources) + 1)
        entries = [placed(buffer, key, **source) for key, source in zip(keys, sources, strict=True)]
        return graph([99], [*entries, placed(buffer, 99, op=op, **{"src": keys, **fields})])

    return of


def f32(*ne: int) -> dict[str, object]:
    return {"kind": F32, "ne": ne}


def i32(*ne: int) -> dict[str, object]:
    return {"kind": I32, "ne": ne}


def touch(**fields: object) -> Callable[[Buffer], bytes]:
    """A write of one byte into a tensor with these fields."""
    return lambda buffer: set_tensor(placed(buffer, 1, **fields), 0, b"\x00")


def chain(length: int) -> Callable[[Buffer], bytes]:
    def of(buffer: Buffer) -> bytes:
        links = [placed(buffer, key, op=UNARY, src=(key - 1,)) for key in range(2, length + 1)]
        return graph([length], [placed(buffer, 1), *links])

    return of


NOWHERE = {"buffer": 0, "data": 0}
MOST = 2**31 - 1
ROWS_4 = f32(64, 4)
# In 64 bits these strides make 82 bytes.
WRAPPING: dict[str, object] = {"ne": (1, 2**32 - 1, 2**29, 2), "nb": (4, 2**32 - 1, 24, 100)}
# 2^46 elements in 64 bytes.
ENDLESS: dict[str, object] = {"ne": (16, 2**14, 2**14, 2**14), "nb": (4, 0, 0, 0)}

# Named after the weakness; the guard's word; the frame, for a buffer of 64 KiB at the buffer's own numbers.
ATTACKS: list[tuple[str, str, Frame]] = [
    ("set_of_2_63_bytes", "length_invalid", header(Command.SET_TENSOR, 2**63)),
    ("graph_of_2_63_bytes", "length_invalid", header(Command.GRAPH_COMPUTE, 2**63)),
    ("set_that_claims_1_gib", "length_invalid", header(Command.SET_TENSOR, 1 << 30)),
    ("graph_that_claims_1_gib", "length_invalid", header(Command.GRAPH_COMPUTE, 1 << 30)),
    (
        "set_that_claims_60_mib",
        "tensor_bounds",
        lambda b: header(Command.SET_TENSOR, 60 << 20) + b.bytes_at() + bytes(9),
    ),
    ("set_of_more_than_the_tensor", "tensor_bounds", lambda b: set_tensor(b.bytes_at(0, 8), 0, bytes(9))),
    ("get_of_more_than_the_tensor", "tensor_bounds", lambda b: get_tensor(b.bytes_at(0, 8), 0, 9)),
    ("get_of_a_huge_size", "tensor_bounds", lambda b: get_tensor(b.bytes_at(), 0, 2**62)),
    ("elements_of_2_63", "tensor_shape", touch(kind=I8, ne=(MOST, MOST, MOST, 4), nb=(1, 1, 1, 1))),
    ("data_before_the_buffer", "tensor_bounds", lambda b: touch(data=b.base - 1)(b)),
    ("data_behind_the_buffer", "tensor_bounds", lambda b: touch(data=b.base + b.size)(b)),
    ("data_at_0", "tensor_bounds", touch(data=0)),
    ("tensor_larger_than_the_buffer", "tensor_bounds", touch(kind=I8, ne=(BUFFER_BYTES + 1,))),
    ("row_of_half_a_block", "tensor_shape", touch(kind=Q4_0, ne=(33,))),
    ("offset_that_wraps", "tensor_bounds", lambda b: set_tensor(b.bytes_at(16), 2**64 - 8, bytes(4))),
    ("strides_that_leave_the_buffer", "tensor_bounds", touch(ne=(4, 2**16), nb=(4, 2**32 - 1, 0, 0))),
    ("strides_that_wrap", "tensor_shape", node(ADD, WRAPPING, WRAPPING, **WRAPPING)),
    ("type_that_is_none", "tensor_type", touch(kind=43, nb=(1, 1, 1, 1))),
    (
        "memset_beyond_the_tensor",
        "tensor_bounds",
        lambda b: frame(Command.MEMSET_TENSOR, b.bytes_at() + u64(1, b.size) + b"\xff"),
    ),
    (
        "copy_beyond_the_target",
        "tensor_bounds",
        lambda b: frame(Command.COPY_TENSOR, b.bytes_at(0, 64) + b.bytes_at(128, 63)),
    ),
    ("buffer_of_a_guessed_number", "buffer_unknown", touch(buffer=0x5555_5555_0000)),
    ("buffer_freed_twice", "buffer_unknown", lambda b: frame(Command.FREE_BUFFER, u64(b.handle)) * 2),
    ("node_of_id_0", "graph_reference", lambda b: graph([0], [placed(b, 1)])),
    ("tensor_of_id_0", "graph_reference", lambda b: graph([1], [placed(b, 1), placed(b, 0)])),
    ("node_that_is_not_there", "graph_reference", lambda b: graph([2], [placed(b, 1)])),
    ("source_that_is_not_there", "graph_reference", node(UNARY, src=(7,))),
    ("node_of_itself", "graph_reference", node(UNARY, src=(99,))),
    ("node_twice", "graph_reference", lambda b: graph([1, 1], [placed(b, 1)])),
    ("recursion", "graph_depth", chain(110_000)),
    (
        "more_tensors_than_bytes",
        "graph_length",
        lambda _: frame(Command.GRAPH_COMPUTE, u32(0, 1) + u64(1) + u32(9) + bytes(296)),
    ),
    ("op_beyond_the_last", "op_forbidden", node(OP_COUNT, f32(64))),
    ("unary_beyond_the_last", "op_parameter", node(UNARY, f32(64), params=(99,))),
    ("glu_beyond_the_last", "op_parameter", node(GLU, f32(64), ne=(32,), params=(99,))),
    *((f"function_pointer_{op}", "op_forbidden", node(op, f32(64))) for op in range(MAP_CUSTOM1, CUSTOM + 1)),
    ("read_anywhere", "buffer_unknown", node(GET_ROWS, f32(64, 4) | NOWHERE, i32(1), ne=(64, 1))),
    ("write_anywhere", "buffer_unknown", node(SET_ROWS, f32(64, 1), i32(1), ne=(64, 4), **NOWHERE)),
    ("address_without_a_buffer", "buffer_unknown", node(UNARY, f32(64) | {"buffer": 0})),
    ("product_of_nothing", "op_sources", node(MUL_MAT, ne=(4, 4))),
    ("get_rows_of_another_length", "op_shape", node(GET_ROWS, ROWS_4, i32(3), ne=(64, 4))),
    ("set_rows_of_another_length", "op_shape", node(SET_ROWS, f32(32, 3), i32(3), ne=(64, 4))),
    ("factors_that_do_not_fit", "op_shape", node(MUL_MAT, ROWS_4, f32(32, 4), ne=(4, 4))),
    ("factor_without_a_product", "op_type", node(MUL_MAT, {"kind": Q8_1, "ne": (64, 4)}, ROWS_4, ne=(4, 4))),
    ("summand_that_does_not_repeat", "op_shape", node(ADD, ROWS_4, f32(63), ne=(64, 4))),
    ("part_behind_the_whole", "op_parameter", node(ACC, f32(64), f32(8), params=(256, 256, 256, 1 << 20))),
    ("norm_of_0_groups", "op_parameter", node(GROUP_NORM, f32(4, 3, 8), ne=(4, 3, 8))),
    ("rope_of_more_than_a_row", "op_parameter", node(ROPE, f32(64, 8, 5), i32(5), ne=(64, 8, 5), params=(0, 66, 2))),
    ("endless_compute", "tensor_shape", node(ADD, ENDLESS, ENDLESS, **ENDLESS)),
    (
        "alloc_size_without_sources",
        "op_sources",
        lambda b: frame(Command.GET_ALLOC_SIZE, u32(0) + placed(b, 1, op=FLASH_ATTN_EXT) + bytes(2960)),
    ),
    ("device_that_is_not_there", "device_unknown", frame(Command.GET_MAX_SIZE, u32(1 << 31))),
    ("recompute_of_nothing", "recompute_without_graph", frame(Command.GRAPH_RECOMPUTE, u32(0))),
]


@pytest.mark.parametrize(("word", "attack"), [row[1:] for row in ATTACKS], ids=[row[0] for row in ATTACKS])
def test_the_attacker_alone_is_cut_off(target: Target, word: str, attack: Frame) -> None:
    before = target.refused(word)
    with target.session() as attacker:
        buffer = attacker.alloc(BUFFER_BYTES)
        with contextlib.suppress(ConnectionError):
            attacker.send(attack if isinstance(attack, bytes) else attack(buffer))
        assert_cut(attacker.connection)
    target.tunnel.wait_refused(word, before + 1)
    target.serves_the_next()


def test_more_memory_than_the_node_gives_is_not_allocated(target: Target) -> None:
    with target.session() as attacker:
        assert attacker.ask(Command.ALLOC_BUFFER, u32(0) + u64(96 << 30)) == u64(0, 0)
        buffer = attacker.alloc((MEMORY_MIB << 20) - BUFFER_BYTES)
        assert attacker.ask(Command.ALLOC_BUFFER, u32(0) + u64(2 * BUFFER_BYTES)) == u64(0, 0)
        attacker.send(frame(Command.FREE_BUFFER, u64(buffer.handle)))
        attacker.alloc(2 * BUFFER_BYTES)
    target.serves_the_next()


def test_a_client_that_dies_takes_nobody_with_it(target: Target) -> None:
    for _ in range(8):
        with target.session() as dying:
            buffer = dying.alloc(8 << 20)
            dying.send(*[get_tensor(buffer.bytes_at(), 0, buffer.size)] * 4)
            # Reset rather than closed, in the middle of the answer.
            dying.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            os.close(dying.connection.detach())
    target.serves_the_next()


@pytest.mark.skipif(sys.platform != "linux", reason="/proc tells what a number may point to")
def test_no_number_of_a_buffer_points_into_the_worker(target: Target) -> None:
    with target.session() as client:
        buffers = [client.alloc(size) for size in (1, 4096, 8 << 20)]
        maps = Path(f"/proc/{target.worker.pid}/maps").read_text()
    ranges = [tuple(int(end, 16) for end in line.split()[0].split("-")) for line in maps.splitlines()]
    told = [number for buffer in buffers for number in (buffer.handle, buffer.base)]
    assert ranges
    assert not [number for number in told for begin, end in ranges if begin <= number < end]


def test_a_fresh_buffer_shows_nobodys_bytes(target: Target) -> None:
    for _ in range(32):
        target.serves_the_next()


def test_no_weight_is_taken_from_a_cache(target: Target) -> None:
    with target.session() as client:
        buffer = client.alloc(BUFFER_BYTES)
        client.send(set_tensor(buffer.bytes_at(), 0, SECRET, cache=1))
        assert client.ask(Command.SET_TENSOR_HASH, buffer.bytes_at() + u64(0, 1)) == b"\x00"
    target.serves_the_next()


def test_a_second_client_is_refused_rather_than_queued(target: Target) -> None:
    before = target.refused("lease_busy")
    with target.session() as first:
        with dial(target.port, client_tls(target.identity, GPU0)) as second:
            second.sendall(HELLO_REQUEST)
            assert_cut(second)
        target.tunnel.wait_refused("lease_busy", before + 1)
        first.alloc(BUFFER_BYTES)
    target.serves_the_next()


@pytest.mark.parametrize("opening", [b"", HELLO_REQUEST[:-1]], ids=["half_open", "half_a_hello"])
def test_whoever_only_knocks_holds_nobody_up(target: Target, opening: bytes) -> None:
    with dial(target.port, client_tls(target.identity, GPU0)) as knocking:
        knocking.sendall(opening)
        target.serves_the_next()


def test_an_honest_graph_is_computed_after_all_this(target: Target) -> None:
    with target.session() as client:
        buffer = client.alloc(512)
        client.send(set_tensor(buffer.bytes_at(), 0, struct.pack("<128f", *range(128))), sum_of(buffer))
        total = struct.unpack("<64f", client.read(buffer, 0, 256))
    assert total == tuple(64.0 + 2 * i for i in range(64))
