"""Attacks by what a client does: it dies, waits, asks for too much, comes second, looks for what others left."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

from attack_kinds import BUFFER_BYTES, SPACE_BYTES, Conduct, Loot, Reach, Weakness, placed, session
from rpc_worker import (
    HELLO_REQUEST,
    I8,
    Q4_0,
    Command,
    assert_cut,
    frame,
    get_tensor,
    header,
    set_tensor,
    tensor,
    u32,
    u64,
)
from tunnel_harness import sample

SECRET = sample(BUFFER_BYTES)
# No two stretches of the secret of this length are alike, and none is zero.
PIECE = 16
# More, in all, than a machine of the size that runs tests has.
PIECES, PIECE_BYTES = 16, 8 << 30
# Fits once, and not twice, into the address space that a stock server gets.
HUGE_BYTES = SPACE_BYTES * 2 // 3
ROWS = (1 << 20, HUGE_BYTES >> 20)
BYTES_OF_ROWS = (1, 1 << 20, 0, 0)
UNREAD_BYTES = 16 << 20


def fnv_1a(content: bytes) -> int:
    """As llama.cpp names what it caches."""
    number = 0xCBF29CE484222325
    for byte in content:
        number = (number ^ byte) * 0x100000001B3 & 2**64 - 1
    return number


def of_the_secret(seen: bytes) -> int:
    """How many bytes of the secret are seen, wherever they stand."""
    pieces = [seen[at : at + PIECE] for at in range(0, len(seen), PIECE)]
    return PIECE * sum(piece in SECRET for piece in pieces)


@contextlib.contextmanager
def die(reach: Reach) -> Iterator[Loot]:
    """Eight times, in the middle of an answer: a process that is killed, and one whose kernel still says good-bye."""
    for number in range(8):
        with session(reach) as dying:
            buffer = dying.alloc(8 << 20)
            dying.send(*[get_tensor(buffer.bytes_at(), 0, buffer.size)] * 4)
            reset = number % 2
            dying.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", reset, 0))
            os.close(dying.connection.detach())
    yield Loot()


@contextlib.contextmanager
def ask_for_too_much(reach: Reach) -> Iterator[Loot]:
    with session(reach) as greedy:
        answers = [greedy.ask(Command.ALLOC_BUFFER, u32(0) + u64(PIECE_BYTES)) for _ in range(PIECES)]
        granted = PIECE_BYTES * sum(answer[:8] != bytes(8) for answer in answers)
    yield Loot(granted_bytes=granted)


@contextlib.contextmanager
def read_more_than_there_is(reach: Reach) -> Iterator[Loot]:
    """A buffer costs nothing as long as nobody writes to it; an answer of its size does."""
    with session(reach) as client:
        answer = client.ask(Command.ALLOC_BUFFER, u32(0) + u64(HUGE_BYTES))
        handle, granted = struct.unpack("<QQ", answer)
        if granted:
            base = int.from_bytes(client.ask(Command.BUFFER_GET_BASE, u64(handle)), "little")
            client.send(get_tensor(tensor(kind=I8, buffer=handle, data=base, ne=ROWS, nb=BYTES_OF_ROWS), 0, granted))
            assert_cut(client.connection)
    yield Loot(granted_bytes=granted)


def say(opening: bytes = b"") -> Callable[[Reach], contextlib.AbstractContextManager[Loot]]:
    """So much, and then wait."""

    @contextlib.contextmanager
    def act(reach: Reach) -> Iterator[Loot]:
        with reach.connect() as connection:
            connection.sendall(opening)
            yield Loot()

    return act


@contextlib.contextmanager
def stop_in_mid_frame(reach: Reach) -> Iterator[Loot]:
    with session(reach) as client:
        client.send(header(Command.ALLOC_BUFFER, 12))
        yield Loot()


@contextlib.contextmanager
def read_nothing(reach: Reach) -> Iterator[Loot]:
    with session(reach) as deaf:
        buffer = deaf.alloc(UNREAD_BYTES)
        deaf.send(get_tensor(buffer.bytes_at(), 0, buffer.size))
        yield Loot()


@contextlib.contextmanager
def idle(reach: Reach) -> Iterator[Loot]:
    with session(reach):
        yield Loot()


@contextlib.contextmanager
def look_for_old_bytes(reach: Reach) -> Iterator[Loot]:
    with session(reach) as victim:
        buffer = victim.alloc(BUFFER_BYTES)
        victim.send(set_tensor(buffer.bytes_at(), 0, SECRET))
        assert victim.read(buffer) == SECRET
    with session(reach) as attacker:
        seen = attacker.read(attacker.alloc(BUFFER_BYTES))
    yield Loot(disclosed_bytes=of_the_secret(seen))


@contextlib.contextmanager
def look_at_numbers(reach: Reach) -> Iterator[Loot]:
    """Handles and addresses of buffers: are they the worker's own?"""
    with session(reach) as client:
        buffers = [client.alloc(size) for size in (1, 4096, 8 << 20)]
        told = [number for buffer in buffers for number in (buffer.handle, buffer.base)]
        lines = Path(f"/proc/{reach.pid}/maps").read_text().splitlines()
    ranges = [tuple(int(end, 16) for end in line.split()[0].split("-")) for line in lines]
    assert ranges
    yield Loot(disclosed_bytes=8 * sum(begin <= number < end for number in told for begin, end in ranges))


@contextlib.contextmanager
def ask_by_hash(reach: Reach) -> Iterator[Loot]:
    """For what another client loaded, of which only 64 bits of hash are known."""
    with session(reach) as victim:
        buffer = victim.alloc(BUFFER_BYTES)
        victim.send(set_tensor(buffer.bytes_at(), 0, SECRET, cache=1))
        assert victim.read(buffer) == SECRET
    with session(reach) as attacker:
        buffer = attacker.alloc(BUFFER_BYTES)
        attacker.send(frame(Command.BUFFER_CLEAR, u64(buffer.handle) + b"\x00"))
        attacker.ask(Command.SET_TENSOR_HASH, buffer.bytes_at() + u64(0, fnv_1a(SECRET)))
        seen = attacker.read(buffer)
    yield Loot(disclosed_bytes=of_the_secret(seen))


@contextlib.contextmanager
def pad_behind_the_buffer(reach: Reach) -> Iterator[Loot]:
    """With one block at the buffer's end, of a row that CUDA would fill up with zeroes to 512 elements."""
    with session(reach) as client:
        buffer = client.alloc(BUFFER_BYTES)
        client.send(frame(Command.INIT_TENSOR, placed(buffer, 1, back=18, kind=Q4_0, ne=(32,))))
        client.read(buffer)
    yield Loot()


@contextlib.contextmanager
def offer_another_way(reach: Reach) -> Iterator[Loot]:
    """Capabilities that would move the traffic to RDMA. The answer must offer none."""
    with session(reach) as client:
        client.alloc(BUFFER_BYTES)
    yield Loot()


ALL = (
    Conduct("death_in_mid_answer", Weakness.DYING_CLIENT, die, "served"),
    Conduct(
        "buffers_of_128_gib",
        Weakness.OVERCOMMIT,
        ask_for_too_much,
        "none is given",
        space_bytes=2 * PIECES * PIECE_BYTES,
    ),
    Conduct("read_of_4_gib", Weakness.HUGE_READ, read_more_than_there_is, "no such buffer is given"),
    Conduct("half_open", Weakness.IDLE_PEER, say(), "served"),
    Conduct("half_a_hello", Weakness.IDLE_PEER, say(HELLO_REQUEST[:-1]), "served"),
    Conduct(
        "half_a_frame",
        Weakness.IDLE_PEER,
        stop_in_mid_frame,
        "the next is refused: `lease_busy`",
        meanwhile="lease_busy",
    ),
    Conduct(
        "answers_unread",
        Weakness.IDLE_PEER,
        read_nothing,
        "the next is refused: `lease_busy`",
        meanwhile="lease_busy",
    ),
    Conduct(
        "idle_session",
        Weakness.SECOND_CLIENT,
        idle,
        "the next is refused: `lease_busy`",
        meanwhile="lease_busy",
    ),
    Conduct("read_of_a_fresh_buffer", Weakness.OLD_BYTES, look_for_old_bytes, "zeroes"),
    Conduct("numbers_of_buffers", Weakness.HEAP_ADDRESSES, look_at_numbers, "the guard's own numbers"),
    Conduct("weights_by_their_hash", Weakness.CACHE, ask_by_hash, "not found", options=("-c",)),
    Conduct("padding_behind_the_buffer", Weakness.PADDING, pad_behind_the_buffer, "not forwarded"),
    Conduct("capabilities_in_hello", Weakness.RDMA, offer_another_way, "zeroed both ways"),
)
