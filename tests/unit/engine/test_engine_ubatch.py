"""In pieces of which size a batch goes through the workers."""

from __future__ import annotations

import pytest

from rpcmesh.engine.messages import DeviceSpec, LoadSpec
from rpcmesh.engine.ubatch import PIPELINED, full_piece, ubatch_size


def spec(workers: int, n_seq_max: int = 8, n_ubatch: int = 0, n_batch: int = 512) -> LoadSpec:
    devices = tuple(DeviceSpec(f"/run/{number}:1", f"node-{number}", "w0") for number in range(workers))
    return LoadSpec("small", "/m.gguf", devices, n_batch=n_batch, n_seq_max=n_seq_max, n_ubatch=n_ubatch)


@pytest.mark.parametrize(
    ("workers", "n_seq_max", "n_ubatch", "size"),
    [
        # Nobody waits for anybody: one piece.
        (0, 8, 0, 512),
        (1, 8, 0, 512),
        (2, 8, 0, PIPELINED),
        (5, 8, 0, PIPELINED),
        # One token of every sequence stays together.
        (2, 80, 0, 80),
        (2, 64, 16, 64),
        # As the admin says, as far as a batch reaches.
        (2, 8, 256, 256),
        (0, 8, 256, 256),
        (2, 8, 4096, 512),
    ],
)
def test_pieces_are_small_where_several_workers_can_share_them(
    workers: int, n_seq_max: int, n_ubatch: int, size: int
) -> None:
    assert ubatch_size(spec(workers, n_seq_max, n_ubatch)) == size


def test_a_full_piece_is_small_also_where_a_batch_is_one_piece() -> None:
    assert full_piece(spec(0)) == full_piece(spec(1)) == full_piece(spec(2)) == PIPELINED
    assert full_piece(spec(2, n_ubatch=256)) == 256
    assert full_piece(spec(1, n_batch=32)) == full_piece(spec(2, n_batch=32)) == 32
