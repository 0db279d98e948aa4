"""The short words of ``rpcmesh status``."""

from __future__ import annotations

import pytest

from rpcmesh.cli.status import requests_word, sandbox_word
from rpcmesh.gateway.request_queue import Figures
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


@pytest.mark.parametrize(
    ("figures", "word"),
    [
        (Figures(), "0 running, 0 waiting"),
        (Figures(3, 2, {"overloaded": 0}), "3 running, 2 waiting"),
        (Figures(3, 2, {"overloaded": 1, "queue_full": 4}), "3 running, 2 waiting, 5 refused since the start"),
    ],
)
def test_the_requests_in_a_few_words(figures: Figures, word: str) -> None:
    assert requests_word(figures) == word
