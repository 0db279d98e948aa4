"""What signals do to a change of the rules: they end it in order, and nothing stops the way back."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Iterator
from types import FrameType

_ENDINGS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
# Ctrl-Z, and a question to the terminal from the background: a process that is stopped brings no rules back.
_STOPS = (signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU)


@contextlib.contextmanager
def by_exception() -> Iterator[None]:
    """SIGINT, SIGTERM and SIGHUP raise :class:`KeyboardInterrupt`; one that nohup ignores stays so. None stops us."""
    with _handling(_STOPS, signal.SIG_IGN), _handling(_ENDINGS, _end_once):
        yield


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """No ending is heard."""
    with _handling(_ENDINGS, signal.SIG_IGN):
        yield


def _end_once(number: int, frame: FrameType | None) -> None:
    # An admin who types Ctrl-C twice must not stop the way back.
    for one in _ENDINGS:
        signal.signal(one, signal.SIG_IGN)
    raise KeyboardInterrupt


@contextlib.contextmanager
def held_back() -> Iterator[None]:
    """An ending that comes meanwhile is heard when the block is over."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _ENDINGS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextlib.contextmanager
def _handling(
    signals: tuple[signal.Signals, ...], handler: Callable[[int, FrameType | None], None] | signal.Handlers
) -> Iterator[None]:
    former = {one: signal.getsignal(one) for one in signals}
    try:
        for one, was in former.items():
            if was is not signal.SIG_IGN:
                signal.signal(one, handler)
        yield
    finally:
        for one, was in former.items():
            signal.signal(one, was)
