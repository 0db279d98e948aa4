"""Reads what Linux and its tools say of a machine and its processes. Pure: text in, values out."""

from __future__ import annotations

import re
from collections.abc import Mapping

import msgspec

_CHOSEN = re.compile(r"\[(\w+)\]")
_FIELD = re.compile(r"^(\w+):\s*(.*)$", re.MULTILINE)
# Modes of seccomp, as in proc(5).
_FILTER = "2"


class Confinement(msgspec.Struct, frozen=True):
    """Of one process. ``uid`` is the effective one."""

    uid: int
    no_new_privileges: bool
    call_filter: bool


def huge_pages(text: str) -> str | None:
    """``/sys/kernel/mm/transparent_hugepage/enabled``, as ``always [madvise] never``: the mode in brackets."""
    found = _CHOSEN.search(text)
    return found[1] if found else None


def persistence(text: str) -> tuple[str, ...]:
    """``nvidia-smi --query-gpu=persistence_mode --format=csv,noheader``: a word a GPU, none for an error's text."""
    words = tuple(line.strip() for line in text.splitlines() if line.strip())
    known = {"Enabled", "Disabled", "[N/A]", "[Not Supported]"}
    return words if set(words) <= known else ()


def confinement(text: str) -> Confinement | None:
    """``/proc/PID/status``; None when it lacks what is asked for. A kernel without seccomp has no such line."""
    fields = dict(_FIELD.findall(text))
    try:
        return Confinement(
            uid=int(fields["Uid"].split()[1]),
            no_new_privileges=fields["NoNewPrivs"] == "1",
            call_filter=fields.get("Seccomp") == _FILTER,
        )
    except (KeyError, IndexError, ValueError):
        return None


def limit_c(trips: Mapping[str, str]) -> float | None:
    """The lowest trip point, in °C, at which a thermal zone counts as too hot; None for a zone that has none.

    ``trips`` maps the names of files, ``trip_point_N_type`` and ``trip_point_N_temp``, to their text: see Linux's
    Documentation/ABI/testing/sysfs-class-thermal. A trip point that is not used has 0 or less.
    """
    found = []
    for name, kind in trips.items():
        if name.endswith("_type") and kind.strip() in {"hot", "critical"}:
            limit = milli_c(trips.get(f"{name.removesuffix('_type')}_temp", ""))
            if limit is not None and limit > 0:
                found.append(limit)
    return min(found, default=None)


def milli_c(text: str) -> float | None:
    """A temperature as the kernel writes it: ``48000`` is 48 °C."""
    try:
        return int(text) / 1000
    except ValueError:
        return None


def unit_states(names: tuple[str, ...], text: str) -> dict[str, str] | None:
    """``systemctl is-enabled NAME…``: a word a name; None when it said anything else."""
    words = text.split()
    return dict(zip(names, words, strict=True)) if len(words) == len(names) else None
