"""``rpcmesh bench …`` measures for real, writes what it found and cleans up. No speed is asserted."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import statistics
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tunnel_harness import echo, eventually, receive, unix_server
from whole_mesh import RPCMESH, processes_below, run_cli, short_home

from rpcmesh.bench import decode, link
from rpcmesh.bench.guard import STARTS
from rpcmesh.errors import RpcmeshError
from rpcmesh.native_build import Build
from rpcmesh.paths import Home

# The first run on a machine compiles the rival.
LIMIT_S = 900.0
STOP_LIMIT_S = 30.0


class Bench:
    """A bench in its own process, with a temporary directory of its own."""

    def __init__(self, process: subprocess.Popen[str], scratch: Path) -> None:
        self.process = process
        self._scratch = scratch

    def homes(self) -> list[Home]:
        """The mesh's, its nodes' and the bare link's; empty until they have a place."""
        places = list(self._scratch.iterdir())
        if not places:
            return []
        mesh = Home(places[0] / "mesh")
        return [mesh, *(Home(mesh.root / "nodes" / node) for node in decode.NODES), Home(places[0] / "link")]

    def until(self, condition: Callable[[], Any], what: str) -> Any:
        return eventually(lambda: condition() or self.process.poll() is not None, what, LIMIT_S)


@contextlib.contextmanager
def running(scratch: Path, *options: str, verb: str = "tunnel") -> Iterator[Bench]:
    command = [*RPCMESH, "bench", verb, "--rounds", "1", "--tokens", "16", *options]
    environment = {**os.environ, "TMPDIR": str(scratch)}
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            yield Bench(process, scratch)
        finally:
            process.kill()


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    """Deep enough for the homes in it to have their sockets elsewhere."""
    made = tmp_path / "tmp"
    made.mkdir()
    return made


def assert_nothing_is_left(scratch: Path, homes: list[Home]) -> None:
    assert list(scratch.iterdir()) == []
    assert [home.run for home in homes if home.run.exists()] == []
    assert processes_below(scratch) == []


def test_the_figures_are_measured_shown_and_written(build: Build, smollm2: Path, scratch: Path, tmp_path: Path) -> None:
    written = tmp_path / "figures.json"

    with running(scratch, "--json", str(written)) as bench:
        bench.until(bench.homes, "a place for the homes")
        homes = bench.homes()
        shown, said = bench.process.communicate(timeout=LIMIT_S)

    assert bench.process.returncode == 0, said
    figures = json.loads(written.read_text())
    assert figures.keys() == {"compared", "round_trip"}
    # Bytes are compared where there is an openssl command to compare with.
    expected = {"decode, 1 stream, 2 workers": "tokens/s"}
    if shutil.which("openssl"):
        expected["bulk, 1 connection"] = "GB/s"
    assert {one["what"]: one["unit"] for one in figures["compared"]} == expected
    for one in figures["compared"]:
        assert one.keys() == {"what", "unit", "rival_name", "ours", "rival", "ratio", "pairs"}
        assert one["ours"] > 0
        assert one["rival"] > 0
        assert one["pairs"] == [[one["ours"], one["rival"]]]
        assert one["ratio"] == pytest.approx(one["ours"] / one["rival"])
        assert one["what"] in shown
        assert one["rival_name"] in shown
    trip = figures["round_trip"]
    assert trip.keys() == {f"{way}_p{part}_us" for way in ("direct", "tunnel", "added") for part in (50, 99)}
    for part in (50, 99):
        assert trip[f"direct_p{part}_us"] > 0
        assert trip[f"added_p{part}_us"] == pytest.approx(trip[f"tunnel_p{part}_us"] - trip[f"direct_p{part}_us"])
    assert str(written) in shown
    assert_nothing_is_left(scratch, homes)


def test_the_guard_s_cost_is_measured_shown_and_written(
    build: Build, smollm2: Path, scratch: Path, tmp_path: Path
) -> None:
    written = tmp_path / "figures.json"

    with running(scratch, "--json", str(written), verb="guard") as bench:
        shown, said = bench.process.communicate(timeout=LIMIT_S)

    assert bench.process.returncode == 0, said
    figures = json.loads(written.read_text())
    alone, decoded = figures["alone"], figures["decode"]
    assert alone["graph_nodes"] >= 1300
    assert alone["graph_tensors"] > alone["graph_nodes"]
    assert alone["graph_check_us"] > 0
    assert alone["payloads_gb_s"] > 0
    assert len(decoded["pairs"]) == STARTS
    assert decoded["ratio"] == pytest.approx(statistics.median(ours / rival for ours, rival in decoded["pairs"]))
    for target in ("at most 150 us", "at least 3 GB/s", "at least 0.99"):
        assert target in shown
    assert_nothing_is_left(scratch, [])


# What the disk shows when each part of the measurement has begun.
STAGES: dict[str, Callable[[list[Home]], bool]] = {
    "decode": lambda homes: len(homes) > 2 and homes[2].socket("tunnel").exists(),
    "link": lambda homes: len(homes) > 3 and homes[3].socket("through").exists(),
}


@pytest.mark.parametrize("stage", STAGES)
def test_it_can_be_stopped_underway_and_leaves_nothing(build: Build, smollm2: Path, scratch: Path, stage: str) -> None:
    with running(scratch) as bench:
        bench.until(lambda: bench.homes() and STAGES[stage](bench.homes()), stage)
        homes = bench.homes()
        assert homes
        bench.process.send_signal(signal.SIGINT)
        _, said = bench.process.communicate(timeout=STOP_LIMIT_S)

    assert bench.process.returncode == 130, said
    assert_nothing_is_left(scratch, homes)


@pytest.mark.parametrize("verb", ["tunnel", "guard"])
def test_figures_that_could_not_be_written_are_not_measured(tmp_path: Path, verb: str) -> None:
    wanted = tmp_path / "nowhere" / "figures.json"

    refused = run_cli(tmp_path, "bench", verb, "--json", str(wanted))

    assert refused.returncode == 1
    assert refused.stdout == ""
    assert refused.stderr.startswith(f"error: cannot write '{wanted}'")


@pytest.mark.parametrize("options", [("--rounds", "0"), ("--tokens", "15"), ("--tokens", "901")])
def test_measurements_that_mean_nothing_are_usage_errors(tmp_path: Path, options: tuple[str, str]) -> None:
    assert run_cli(tmp_path, "bench", "tunnel", *options).returncode == 2


async def test_a_peer_that_hangs_up_ends_the_pings() -> None:
    def echo_after_mode(connection: socket.socket) -> None:
        connection.recv(1)
        echo(connection)

    def hang_up(connection: socket.socket) -> None:
        connection.recv(1)
        receive(connection, link.PING_BYTES)

    with short_home() as home:
        ways = link.Link(direct=home.socket("direct"), through=home.socket("through"))
        with (
            unix_server(ways.direct, echo_after_mode),
            unix_server(ways.through, hang_up),
            pytest.raises(RpcmeshError, match="hung up"),
        ):
            await link.round_trip(ways, pings=10, repeats=1)


def test_the_bench_of_snapshots_goes_on_both_ways_and_writes_its_figures(tmp_path: Path) -> None:
    figures = tmp_path / "figures.json"

    done = run_cli(tmp_path / "home", "bench", "snapshot", "--tokens", "200", "--rounds", "1", "--json", str(figures))

    assert done.returncode == 0, done.stderr
    (measured,) = json.loads(figures.read_bytes())["measured"]
    assert measured["prompt_tokens"] == 200
    assert measured["saved_bytes"] > 1 << 20
    assert min(measured["restored_s"], measured["prefilled_s"]) > 0
    assert not (tmp_path / "home").exists()
