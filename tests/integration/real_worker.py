"""A real ggml-rpc-server on a Unix socket, without a supervisor, and graphs that keep it busy or end it."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

from rpc_worker import F32, I32, Buffer, graph, tensor
from tunnel_harness import eventually

from rpcmesh.native_build import Build
from rpcmesh.node.worker import ENVIRONMENT

MUL_MAT, GET_ROWS = 29, 40
# Rows and columns of the factors: one product takes a core some hundredths of a second.
SIDE = 1024
MATRIX_BYTES = SIDE * SIDE * 4
PRODUCTS_BYTES = 3 * MATRIX_BYTES


@contextlib.contextmanager
def real_worker(build: Build, path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Its socket is there. The socket that a predecessor left is taken away first, as the supervisor does."""
    path.unlink(missing_ok=True)
    arguments = [str(build.worker), "-H", str(path), "-p", "1", "-t", "1"]
    with (
        path.with_suffix(".log").open("ab") as log,
        subprocess.Popen(arguments, env=ENVIRONMENT, cwd=path.parent, stdout=log, stderr=log) as worker,
    ):
        try:
            eventually(path.is_socket, "the worker's socket")
            yield worker
        finally:
            worker.kill()


def products(buffer: Buffer, count: int) -> bytes:
    """A graph of ``count`` products of two matrices, all over the same bytes; the guard finds nothing wrong with it."""
    factors = [
        tensor(key=key, buffer=buffer.handle, data=buffer.base + (key - 1) * MATRIX_BYTES, ne=(SIDE, SIDE))
        for key in (1, 2)
    ]
    keys = range(3, 3 + count)
    place = buffer.base + 2 * MATRIX_BYTES
    results = [
        tensor(key=key, buffer=buffer.handle, data=place, ne=(SIDE, SIDE), op=MUL_MAT, src=(1, 2)) for key in keys
    ]
    return graph(keys, [*factors, *results])


def row_of(buffer: Buffer) -> bytes:
    """A graph that takes one row of 4. Its number stands at byte 1024, where the guard does not look."""
    rows = tensor(key=1, kind=F32, buffer=buffer.handle, data=buffer.base, ne=(64, 4))
    number = tensor(key=2, kind=I32, buffer=buffer.handle, data=buffer.base + 1024, ne=(1,))
    row = tensor(key=3, buffer=buffer.handle, data=buffer.base + 2048, ne=(64, 1), op=GET_ROWS, src=(1, 2))
    return graph([3], [rows, number, row])
