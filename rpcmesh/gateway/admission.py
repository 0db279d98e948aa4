"""Who waits for the engine, who is next, and who is turned away. No I/O, no clock, no engine.

A line changes by four steps: a ticket joins, the next ones start, one too many is found, a ticket leaves.
"""

from __future__ import annotations

import math
from collections import Counter

import msgspec

# What a client is told to wait when nothing is known, at least, and at most.
RETRY_AFTER_UNKNOWN_S = 5
RETRY_AFTER_MIN_S = 1
RETRY_AFTER_MAX_S = 60
# A run's weight in the mean of all runs before it: the last ten or so count.
RUN_WEIGHT = 0.1


class Limits(msgspec.Struct, frozen=True):
    """``waiting_max`` requests wait at most; ``per_key_max`` of one key run at the same time, 0 for no such limit."""

    waiting_max: int = 64
    per_key_max: int = 0


class Ticket(msgspec.Struct, frozen=True):
    """One request. ``number`` counts arrivals and is never given twice; a lower ``priority`` goes first."""

    number: int
    key: str
    priority: int = 0


class Line(msgspec.Struct, frozen=True):
    """``waiting`` in order of arrival, ``running`` in order of start.

    ``turns`` has each key with a ticket here and when, by ``clock``, it last started one, or came. So keys stand in a
    circle: who starts a ticket goes to its end, and so does who is new.
    """

    waiting: tuple[Ticket, ...] = ()
    running: tuple[Ticket, ...] = ()
    turns: dict[str, int] = {}
    clock: int = 0


def join(line: Line, ticket: Ticket) -> Line:
    """With ``ticket`` among those that wait."""
    clock = line.clock + 1
    return msgspec.structs.replace(
        line, waiting=(*line.waiting, ticket), turns={ticket.key: clock, **line.turns}, clock=clock
    )


def leave(line: Line, ticket: Ticket) -> Line:
    """Without ``ticket``, wherever it is. Its key is forgotten with its last one."""
    waiting = tuple(each for each in line.waiting if each != ticket)
    running = tuple(each for each in line.running if each != ticket)
    here = {each.key for each in (*waiting, *running)}
    turns = {key: turn for key, turn in line.turns.items() if key in here}
    return Line(waiting, running, turns, line.clock)


def start(line: Line, places: int, limits: Limits) -> tuple[Line, tuple[Ticket, ...]]:
    """Fill ``places`` in the engine: the line after it, and the tickets that start, in order."""
    started: list[Ticket] = []
    while len(line.running) < places and (ticket := _next(line, limits)) is not None:
        line = _started(line, ticket)
        started.append(ticket)
    return line, tuple(started)


def one_too_many(line: Line, limits: Limits) -> Ticket | None:
    """The ticket that has no place to wait: the last of the key that takes most of them.

    So whoever fills the queue turns itself away, and no other key. Between equal keys it is the one that came last.
    """
    if len(line.waiting) <= limits.waiting_max:
        return None
    count = Counter(ticket.key for ticket in line.waiting)
    newest = {ticket.key: ticket.number for ticket in line.waiting}
    greediest = max(count, key=lambda key: (count[key], newest[key]))
    return max(
        (ticket for ticket in line.waiting if ticket.key == greediest), key=lambda each: (each.priority, each.number)
    )


def waits_behind_its_own(line: Line, ticket: Ticket) -> bool:
    """Whether other requests of the same key wait: then it is the key that fills the queue."""
    return any(other.key == ticket.key and other != ticket for other in line.waiting)


def mean_run_s(before: float | None, run_s: float) -> float:
    """The mean time that a request runs, after another one that took ``run_s`` seconds."""
    return run_s if before is None else before + RUN_WEIGHT * (run_s - before)


def retry_after_s(waiting: int, places: int, run_s: float | None) -> int:
    """In how many whole seconds those that wait now will have started, when requests run ``run_s`` each."""
    if run_s is None or places == 0:
        return RETRY_AFTER_UNKNOWN_S
    return min(max(math.ceil(waiting * run_s / places), RETRY_AFTER_MIN_S), RETRY_AFTER_MAX_S)


def _next(line: Line, limits: Limits) -> Ticket | None:
    """Priority first; then the key with the fewest running, then the one whose turn is longest ago, then arrival.

    Within a priority nobody starves: a key that has nothing running is behind those only that stand before it in the
    circle, and whoever starts or comes goes to the circle's end.
    """
    running = Counter(ticket.key for ticket in line.running)
    may = (ticket for ticket in line.waiting if not 0 < limits.per_key_max <= running[ticket.key])
    return min(
        may, key=lambda each: (each.priority, running[each.key], line.turns[each.key], each.number), default=None
    )


def _started(line: Line, ticket: Ticket) -> Line:
    clock = line.clock + 1
    waiting = tuple(each for each in line.waiting if each != ticket)
    return Line(waiting, (*line.running, ticket), {**line.turns, ticket.key: clock}, clock)
