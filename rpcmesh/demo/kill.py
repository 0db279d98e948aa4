"""The demo's hard part: a node is killed in the middle of an answer, and the answer goes on and is right."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import psutil

from rpcmesh.demo import ask
from rpcmesh.demo.local_mesh import LocalMesh
from rpcmesh.engine import reference
from rpcmesh.engine.messages import ChatMessage, ChatPrompt, Score

QUESTION = "Write a long story about the sea."
MAX_TOKENS = 160
# The node is killed when so many pieces of text have arrived.
KILL_AFTER_PIECES = 40


class Killed(msgspec.Struct, frozen=True):
    """``stages`` are seconds from the moment the coordinator noticed; ``recovery_s`` is what the client waited.

    ``continuation_valid``: each token of the whole answer is the model's own choice behind those before it.
    """

    node: str
    sent_intact: bool
    continuation_valid: bool
    worst_margin: float
    recovery_s: float
    tokens_before: int
    tokens_after: int
    stages: dict[str, float]


class _Watch:
    """Counts pieces, kills once there are enough, and times the wait that follows."""

    def __init__(self, show: Callable[[str], None], kill: Callable[[], None]) -> None:
        self._show = show
        self._kill = kill
        self.pieces = 0
        self._last = 0.0
        self.killed_at = 0.0
        self.recovery_s = 0.0

    def __call__(self, text: str) -> None:
        now = time.perf_counter()
        if self.killed_at:
            # What was on its way comes within moments: the recovery is the longest wait of all.
            self.recovery_s = max(self.recovery_s, now - self._last)
        self._last = now
        self._show(text)
        self.pieces += 1
        if self.pieces == KILL_AFTER_PIECES:
            self._kill()
            self.killed_at = self._last = time.perf_counter()


async def kill_and_go_on(
    mesh: LocalMesh, endpoint: ask.Endpoint, node: str, model_file: Path, show: Callable[[str], None]
) -> Killed:
    """Ask for a story and kill ``node``, with all its processes, in the middle of it."""
    watch = _Watch(show, lambda: _kill_tree(mesh.processes[node].pid))
    answer = await ask.stream(
        endpoint,
        [ask.Turn(role="user", content=QUESTION)],
        max_tokens=MAX_TOKENS,
        temperature=0.0,
        on_text=watch,
        with_tokens=True,
    )
    failovers = (await mesh.admin.status()).failovers
    asked = Score("answer", ChatPrompt((ChatMessage(role="user", content=QUESTION),)), answer.token_ids)
    (margins,) = await reference.margins(mesh.build.lib_dir, model_file, [asked])
    return Killed(
        node=node,
        sent_intact=len(answer.token_ids) == answer.completion_tokens,
        continuation_valid=max(margins) <= reference.MARGIN_MAX,
        worst_margin=round(max(margins), 3),
        recovery_s=round(watch.recovery_s, 3),
        tokens_before=KILL_AFTER_PIECES,
        tokens_after=answer.completion_tokens - KILL_AFTER_PIECES,
        stages=failovers[-1].stages if failovers else {},
    )


def _kill_tree(pid: int) -> None:
    for process in (*psutil.Process(pid).children(recursive=True), psutil.Process(pid)):
        os.kill(process.pid, signal.SIGKILL)
