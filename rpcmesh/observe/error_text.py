"""Records of an error log as people read them: one line each. Pure: today and the time zone are passed in."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date, datetime, tzinfo
from typing import Any

import msgspec

MOST_OPS = 4
# Fields that have a place of their own in a line, or none at all.
_SHOWN_APART = frozenset({"seq", "ts", "level", "event", "exception"})


class Line(msgspec.Struct, frozen=True):
    """``when`` is the time of day, with the date in front unless that is today's."""

    when: str
    level: str
    event: str
    text: str


def line(record: Mapping[str, Any], today: date, zone: tzinfo | None = None) -> Line:
    """``zone`` None is this machine's."""
    event = str(record.get("event", "-"))
    describe = _SENTENCES.get(event, _fields)
    return Line(
        when=_when(str(record.get("ts", "")), today, zone),
        level=str(record.get("level", "-")),
        event=event,
        text=" ".join(describe(record).split()),
    )


def _when(stamp: str, today: date, zone: tzinfo | None) -> str:
    try:
        at = datetime.fromisoformat(stamp).astimezone(zone)
    except (ValueError, OverflowError):
        return "-"
    return at.strftime("%H:%M:%S" if at.date() == today else "%Y-%m-%d %H:%M:%S")


def _fields(record: Mapping[str, Any]) -> str:
    told = [f"{key}={_value(value)}" for key, value in record.items() if key not in _SHOWN_APART]
    raised = str(record.get("exception", "")).strip().splitlines()
    return " ".join([*told, *raised[-1:]])


def _value(value: Any) -> str:
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


def _crash(record: Mapping[str, Any]) -> str:
    return f"{record.get('worker', '-')} {record.get('exit', 'ended')}{_doing(record)}{_aftermath(record)}"


def _reset(record: Mapping[str, Any]) -> str:
    return f"{record.get('worker', '-')} ended by us ({record.get('reason', '-')}){_doing(record)}{_aftermath(record)}"


def _of_a_session(record: Mapping[str, Any]) -> str:
    session, route, reason = (record.get(key, "-") for key in ("session", "route", "reason"))
    return f"session {session} on {route} ({reason}){_doing(record)}"


def _doing(record: Mapping[str, Any]) -> str:
    """`` in GRAPH_COMPUTE (935 nodes: MUL_MAT 211, ADD 122, ...)``."""
    command = record.get("command")
    if not command:
        return ""
    graph = record.get("graph")
    if not isinstance(graph, Mapping) or not str(command).startswith("GRAPH_"):
        return f" in {command}"
    ops = graph.get("ops")
    counted = ops.items() if isinstance(ops, Mapping) else ()
    counts = sorted(((name, count) for name, count in counted if isinstance(count, int)), key=lambda op: -op[1])
    shown = [f"{name} {count}" for name, count in counts[:MOST_OPS]] + ["..."] * (len(counts) > MOST_OPS)
    nodes = graph.get("nodes", 0)
    return f" in {command} ({nodes} node{'s' if nodes != 1 else ''}: {', '.join(shown)})"


def _aftermath(record: Mapping[str, Any]) -> str:
    again = record.get("ready_again_ms")
    said = _last_words(record.get("output"))
    return (f", ready again after {again} ms" if again is not None else ", not ready again") + (
        f": {said}" if said else ""
    )


def _last_words(output: Any) -> str:
    """The line in which ggml says which of its checks failed, or that something else did."""
    lines = [str(said) for said in output] if isinstance(output, list) else []
    return next((said for word in ("GGML_ASSERT", "rror", "ailed") for said in lines if word in said), "")


_SENTENCES = {
    "worker_crashed": _crash,
    "worker_reset": _reset,
    "worker_lost": _of_a_session,
    "worker_stuck": _of_a_session,
}
