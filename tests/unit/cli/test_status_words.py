"""The short words of ``rpcmesh status``."""

from __future__ import annotations

import pytest

from rpcmesh.cli.status import sandbox_word
from rpcmesh.node.status import SandboxStatus, WorkerStatus

CONFINED, PARTIAL, OFF = (SandboxStatus(state=state) for state in ("confined", "partial", "off"))


@pytest.mark.parametrize(
    ("sandboxes", "word"),
    [
        ((), "-"),
        ((CONFINED,), "confined"),
        ((CONFINED, CONFINED), "confined"),
        ((CONFINED, PARTIAL), "confined, partial"),
        ((OFF,), "off"),
        ((SandboxStatus(),), "unknown"),
    ],
)
def test_the_workers_sandboxes_in_a_word(sandboxes: tuple[SandboxStatus, ...], word: str) -> None:
    workers = tuple(WorkerStatus(f"w{at}", "ready", 1, 0, "", 0, sandbox=one) for at, one in enumerate(sandboxes))
    assert sandbox_word(workers) == word
