"""One-off commands that are waited for. Whoever stops waiting takes the command's whole process group with him."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence

# How long a command that is no longer waited for may clean up.
GRACE_S = 5.0


@contextlib.contextmanager
def started(
    command: Sequence[str], extra_env: Mapping[str, str] | None = None, grace_s: float = GRACE_S
) -> Iterator[subprocess.Popen[str]]:
    """Start ``command`` with its output (standard error in it) as text on ``stdout``; wait for it at the end.

    Leaving the block by an error ends it: SIGTERM to the whole group, and SIGKILL if it still runs after ``grace_s``.
    A session of its own keeps Ctrl-C from it, so that it hears of the end from us alone, and all of its descendants do.
    """
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        env={**os.environ, **(extra_env or {})},
        start_new_session=True,
    ) as child:
        try:
            yield child
        except BaseException:
            _end(child, grace_s)
            raise


def _end(child: subprocess.Popen[str], grace_s: float) -> None:
    # macOS says EPERM for a group of zombies.
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child.pid, signal.SIGTERM)
        try:
            child.wait(grace_s)
        except subprocess.TimeoutExpired:
            os.killpg(child.pid, signal.SIGKILL)
            child.wait()
