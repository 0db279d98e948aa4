"""What the doctor says: findings, and the words that every check shares. No check lives here."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Literal, TypeVar

import msgspec

from rpcmesh.doctor.facts import Unknown

Level = Literal["ok", "warn", "fail"]
T = TypeVar("T")


class Finding(msgspec.Struct, frozen=True):
    """One row of ``rpcmesh doctor``. ``fix`` is a command, or a sentence when none would do."""

    check: str
    level: Level
    message: str
    fix: str | None = None


class Said(msgspec.Struct, frozen=True):
    """A finding that does not know its check's name yet."""

    level: Level
    message: str
    fix: str | None = None


def not_seen(fact: Unknown) -> Said:
    return Said("warn", f"could not be looked at: {fact.why}")


def because(reason: str) -> str:
    return f": {reason}" if reason else ""


def each(seen: Iterable[T | Unknown], judge: Callable[[T], Iterable[Said]]) -> Iterator[Said]:
    """For a fact of many, of which some could be seen."""
    for one in seen:
        if isinstance(one, Unknown):
            yield not_seen(one)
        else:
            yield from judge(one)
