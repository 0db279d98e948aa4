"""One-off commands that are waited for. Whoever stops waiting takes the command's whole process group with him."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence


@contextlib.contextmanager
def started(command: Sequence[str], extra_env: Mapping[str, str] | None = None) -> Iterator[subprocess.Popen[str]]:
    """Start ``command`` with its output (standard error in it) as text on ``stdout``; wait for it at the end.

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
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGTERM)
            raise
