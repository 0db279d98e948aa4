"""The demo's state directory: empty when it begins, gone when it ends, and never somebody's real mesh."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from rpcmesh.errors import RpcmeshError
from rpcmesh.paths import Home, private_dir

# Marks a directory as a demo's; the running demo holds a lock on it.
MARKER = ".rpcmesh-demo"


def refuse_remains(home: Home) -> None:
    """Keep a real mesh out of a directory that the next demo would empty."""
    if (home.root / MARKER).exists():
        raise RpcmeshError(
            f"{str(home.root)!r} holds a demo, or what is left of one",
            hint=f"rm -r {home.root}, or set RPCMESH_HOME to another directory",
        )


@contextlib.contextmanager
def claimed(nodes: tuple[str, ...]) -> Iterator[Home]:
    """``RPCMESH_HOME`` if it is set, else a new temporary directory; removed with all that the demo put there.

    Raises :class:`RpcmeshError` for a directory that holds anything but the remains of a demo that was killed.
    """
    chosen = os.environ.get("RPCMESH_HOME")
    root = Path(chosen).absolute() if chosen else Path(tempfile.mkdtemp(prefix="rpcmesh-demo-"))
    private_dir(root)
    if any(root.iterdir()) and not (root / MARKER).exists():
        raise RpcmeshError(f"{str(root)!r} is not empty", hint="the demo wants an empty RPCMESH_HOME, or none")
    with (root / MARKER).open("w") as marker:
        try:
            fcntl.flock(marker, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RpcmeshError(
                f"a demo runs in {str(root)!r} already", hint="stop it, or choose another RPCMESH_HOME"
            ) from None
        _empty(root)
        try:
            yield Home(root).ensure()
        finally:
            for home in (Home(root), *(Home(root / "nodes" / name) for name in nodes)):
                shutil.rmtree(home.run, ignore_errors=True)
            shutil.rmtree(root, ignore_errors=True)


def _empty(root: Path) -> None:
    for entry in root.iterdir():
        if entry.name == MARKER:
            continue
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()
