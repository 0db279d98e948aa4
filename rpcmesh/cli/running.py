"""What Ctrl-C and SIGTERM do: services stop in order, and a one-off command cleans up and says that it was stopped."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Awaitable, Callable, Coroutine

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)


def hold_signals() -> None:
    """From now on until :func:`run` takes them: what is made meanwhile would otherwise be left behind."""
    signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)


def run(work: Coroutine[None, None, None]) -> None:
    """Run :func:`until_stopped`, :func:`until_drained` or :func:`stopped_early` as the last thing that a verb does.

    The stop signals are held back while no handler of ours is there: at the start until the loop can take them, and
    after the end, where nothing but the way out is left. Clean-up cut short would leave files and processes behind.
    """
    hold_signals()
    asyncio.run(work)


async def until_stopped(service: Callable[[asyncio.Event], Awaitable[None]]) -> None:
    """Run ``service`` with an event that SIGINT and SIGTERM set."""
    await until_drained(lambda stop, _: service(stop))


async def until_drained(service: Callable[[asyncio.Event, asyncio.Event], Awaitable[None]]) -> None:
    """As :func:`until_stopped`, with a second event, which the second signal sets: nobody waits any more."""
    stop, hurry = asyncio.Event(), asyncio.Event()
    _on_stop_signals(lambda: hurry.set() if stop.is_set() else stop.set())
    try:
        await service(stop, hurry)
    finally:
        hold_signals()


async def until_interrupted() -> None:
    """Wait, within :func:`stopped_early`, for the signal; then go on and finish in order, as after any other wait."""
    try:
        await asyncio.Event().wait()
    except asyncio.CancelledError:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 (a coroutine runs in a task)
        task.uncancel()


async def stopped_early(work: Coroutine[None, None, None]) -> None:
    """Run ``work``; the first SIGINT or SIGTERM cancels it and becomes KeyboardInterrupt once it has cleaned up.

    Further signals are not heard: cleaning up is bounded, and cut short it would leave processes behind.
    """
    task = asyncio.ensure_future(work)
    interrupted = False

    def interrupt() -> None:
        nonlocal interrupted
        if not interrupted:
            interrupted = True
            task.cancel()

    _on_stop_signals(interrupt)
    try:
        await task
    except asyncio.CancelledError:
        if not interrupted:
            raise
        raise KeyboardInterrupt from None
    finally:
        hold_signals()


def _on_stop_signals(handler: Callable[[], None]) -> None:
    for number in STOP_SIGNALS:
        asyncio.get_running_loop().add_signal_handler(number, handler)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
