"""What ``rpcmesh bench serve`` shows of its figures, and which stream counts it takes."""

from __future__ import annotations

import click
import pytest

from rpcmesh.bench.closed_loop import Latency
from rpcmesh.bench.serve import Row, Side
from rpcmesh.cli.bench_serve import Figures, StreamCounts, show

OURS = Side(80.0, Latency(100.4, 200.0, 10.0, 20.0), clients_cpu=0.02, idle_cpu=0.0)
THEIRS = Side(100.0, Latency(300.0, 400.0, 30.0, 40.0), clients_cpu=0.03, idle_cpu=0.01)


def shown(capsys: pytest.CaptureFixture[str], row: Row) -> list[str]:
    show(Figures(cores=2, tokens=64, rounds=5, rows=(row,), overhead=None))
    return [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]


def test_both_sides_stand_below_each_other_with_one_ratio(capsys: pytest.CaptureFixture[str]) -> None:
    lines = shown(capsys, Row(4, OURS, THEIRS, 0.8, ((80.0, 100.0),)))

    assert lines[1] == "4 rpcmesh 80.0 tokens/s 0.80 100 ms 200 ms 10 ms 20 ms"
    assert lines[2] == "4 llama-server, plaintext RPC 100.0 tokens/s 300 ms 400 ms 30 ms 40 ms"
    assert not any("alone:" in line for line in lines)


def test_without_a_rival_it_says_how_to_get_one(capsys: pytest.CaptureFixture[str]) -> None:
    lines = shown(capsys, Row(4, OURS))

    assert lines[1] == "4 rpcmesh 80.0 tokens/s 100 ms 200 ms 10 ms 20 ms"
    assert lines[-1].endswith("make bench-rival")


def test_stream_counts_are_read() -> None:
    assert StreamCounts().convert("1,4,16", None, None) == (1, 4, 16)


@pytest.mark.parametrize("text", ["", "0", "17", "4,", "1,x", "-1", "1.5", "²"])
def test_other_stream_counts_are_refused(text: str) -> None:
    with pytest.raises(click.BadParameter, match="are not numbers from 1 to 16"):
        StreamCounts().convert(text, None, None)
