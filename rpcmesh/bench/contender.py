"""One side of a comparison: where it is asked, and which processes it has."""

from __future__ import annotations

import contextlib

import msgspec
import psutil

from rpcmesh.demo.ask import Endpoint


class Contender(msgspec.Struct, frozen=True):
    """``processes`` are the heads of its process trees; ``keep_alive`` whether a connection outlives an answer."""

    endpoint: Endpoint
    processes: tuple[int, ...]
    keep_alive: bool = True


def cpu_s(contender: Contender | None) -> float:
    """Processor seconds that all its processes have taken so far; 0 for nobody."""
    total = 0.0
    for head in contender.processes if contender else ():
        for process in (psutil.Process(head), *psutil.Process(head).children(recursive=True)):
            with contextlib.suppress(psutil.NoSuchProcess):
                taken = process.cpu_times()
                total += taken.user + taken.system
    return total
