"""Records of the error log as lines for people, row by row."""

from __future__ import annotations

from datetime import UTC, date
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rpcmesh.observe.error_text import Line, line

TODAY = date(2026, 3, 1)
GRAPH = {"device": 0, "nodes": 935, "tensors": 1200, "ops": {"ADD": 122, "MUL_MAT": 211, "ROPE": 60, "VIEW": 300}}
CRASH = {"worker": "w0", "exit": "killed by SIGABRT", "ready_again_ms": 310}

ROWS: list[tuple[str, dict[str, Any], str]] = [
    ("any_event", {"event": "link_lost", "peer": "n1", "tries": 3, "seq": 9}, "peer=n1 tries=3"),
    ("lists", {"event": "e", "names": ["a", "b"], "none": None}, 'names=["a","b"] none=null'),
    ("exception", {"event": "e", "exception": "Traceback:\n  x\nValueError: bad\n"}, "ValueError: bad"),
    (
        "crash_in_a_graph",
        {**CRASH, "event": "worker_crashed", "command": "GRAPH_COMPUTE", "graph": GRAPH},
        (
            "w0 killed by SIGABRT in GRAPH_COMPUTE (935 nodes: VIEW 300, MUL_MAT 211, ADD 122, ROPE 60), "
            "ready again after 310 ms"
        ),
    ),
    (
        "crash_in_one_node",
        {
            **CRASH,
            "event": "worker_crashed",
            "command": "GRAPH_RECOMPUTE",
            "graph": {"nodes": 1, "ops": {"GET_ROWS": 1}},
            "output": ["loading", "ops.cpp:4789: GGML_ASSERT(i01 >= 0) failed", "aborted"],
        },
        (
            "w0 killed by SIGABRT in GRAPH_RECOMPUTE (1 node: GET_ROWS 1), ready again after 310 ms: "
            "ops.cpp:4789: GGML_ASSERT(i01 >= 0) failed"
        ),
    ),
    (
        "more_ops_than_are_shown",
        {
            "event": "worker_crashed",
            "exit": "x",
            "command": "GRAPH_COMPUTE",
            "graph": {"ops": {**GRAPH["ops"], "CPY": 1}},
        },
        "- x in GRAPH_COMPUTE (0 nodes: VIEW 300, MUL_MAT 211, ADD 122, ROPE 60, ...), not ready again",
    ),
    (
        "crash_outside_a_graph",
        {**CRASH, "event": "worker_crashed", "command": "SET_TENSOR", "graph": GRAPH},
        "w0 killed by SIGABRT in SET_TENSOR, ready again after 310 ms",
    ),
    (
        "crash_that_says_nothing",
        {**CRASH, "event": "worker_crashed", "output": ["Accepted client connection"]},
        "w0 killed by SIGABRT, ready again after 310 ms",
    ),
    (
        "crash_without_an_assertion",
        {**CRASH, "event": "worker_crashed", "output": ["CUDA error: out of memory", "Accepted client connection"]},
        "w0 killed by SIGABRT, ready again after 310 ms: CUDA error: out of memory",
    ),
    ("crash_of_an_idle_worker", {**CRASH, "event": "worker_crashed"}, "w0 killed by SIGABRT, ready again after 310 ms"),
    (
        "reset",
        {**CRASH, "event": "worker_reset", "reason": "compute_timeout", "command": "GRAPH_COMPUTE", "graph": GRAPH},
        (
            "w0 ended by us (compute_timeout) in GRAPH_COMPUTE "
            "(935 nodes: VIEW 300, MUL_MAT 211, ADD 122, ROPE 60), ready again after 310 ms"
        ),
    ),
    (
        "lost",
        {"event": "worker_lost", "session": 4, "route": "r", "reason": "local_closed", "command": "HELLO"},
        "session 4 on r (local_closed) in HELLO",
    ),
]


@pytest.mark.parametrize(("record", "text"), [row[1:] for row in ROWS], ids=[row[0] for row in ROWS])
def test_a_record_reads(record: dict[str, Any], text: str) -> None:
    assert line({**record, "ts": "2026-03-01T22:31:04.5Z", "level": "error"}, TODAY, UTC) == Line(
        "22:31:04", "error", record["event"], text
    )


@pytest.mark.parametrize(
    ("stamp", "shown"),
    [
        ("2026-03-01T00:00:00+00:00", "00:00:00"),
        ("2026-02-28T23:59:59.999Z", "2026-02-28 23:59:59"),
        ("2026-03-01T01:00:00+02:00", "2026-02-28 23:00:00"),
        ("yesterday", "-"),
        ("", "-"),
        ("0001-01-01T00:00:00+23:00", "-"),
    ],
)
def test_the_date_is_shown_where_it_is_not_todays(stamp: str, shown: str) -> None:
    assert line({"ts": stamp}, TODAY, UTC).when == shown


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
keys = st.sampled_from(["event", "ts", "level", "graph", "ops", "command", "output", "exit", "exception", "x"])


@given(
    event=st.sampled_from(["worker_crashed", "worker_reset", "worker_lost", "e"]), record=st.dictionaries(keys, values)
)
def test_whatever_another_machine_says_is_one_line(event: str, record: dict[str, Any]) -> None:
    shown = line({**record, "event": event}, TODAY, UTC)
    assert "\n" not in shown.text
