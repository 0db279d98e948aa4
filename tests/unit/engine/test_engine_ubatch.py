"""In pieces of which size a batch goes through the workers."""

from __future__ import annotations

import pytest

from rpcmesh.engine.messages import DeviceSpec, LoadSpec
from rpcmesh.engine.scheduler import Limits
from rpcmesh.engine.ubatch import PIPELINED, ubatch_size


@pytest.mark.parametrize(
    ("workers", "n_seq_max", "n_ubatch", "size"),
    [
        # Nobody waits for anybody: one piece.
        (0, 8, 0, 512),
        (1, 8, 0, 512),
        (2, 8, 0, PIPELINED),
        (5, 8, 0, PIPELINED),
        # One token of every sequence stays together.
        (2, 64, 0, 64),
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
    devices = tuple(DeviceSpec(f"/run/{number}:1", f"node-{number}", "w0") for number in range(workers))
    spec = LoadSpec("small", "/m.gguf", devices, n_seq_max=n_seq_max, n_ubatch=n_ubatch)

    assert ubatch_size(Limits(n_ctx=512, n_seq_max=n_seq_max, n_batch=512), spec) == size
