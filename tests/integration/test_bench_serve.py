"""``rpcmesh bench serve`` asks a real mesh, shows and writes what it found, and cleans up. No speed is asserted."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

from whole_mesh import RPCMESH, processes_below, run_cli

from rpcmesh.native_build import Build

LIMIT_S = 300.0


def test_a_mesh_alone_is_measured_shown_and_written(build: Build, smollm2: Path, tmp_path: Path) -> None:
    scratch, written = tmp_path / "tmp", tmp_path / "figures.json"
    scratch.mkdir()
    options = ("--streams", "1", "--rounds", "1", "--tokens", "16", "--alone", "--overhead", "--json", str(written))

    done = subprocess.run(
        [*RPCMESH, "bench", "serve", *options],
        env={**os.environ, "TMPDIR": str(scratch)},
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    figures = json.loads(written.read_text())
    (row,) = figures["rows"]
    assert (figures["rounds"], figures["tokens"], row["streams"]) == (1, 16, 1)
    assert (row["rival"], row["ratio"], row["pairs"]) == (None, None, [])
    assert row["ours"]["tokens_per_s"] > 0
    latency = row["ours"]["latency"]
    assert 0 < latency["first_p50_ms"] <= latency["first_p95_ms"]
    assert 0 < latency["between_p50_ms"] <= latency["between_p95_ms"]
    assert figures["overhead"].keys() == {"direct_p50_ms", "gateway_p50_ms", "added_p50_ms"}
    assert "rpcmesh" in done.stdout
    assert str(written) in done.stdout
    assert list(scratch.iterdir()) == []
    assert processes_below(scratch) == []


def test_figures_that_could_not_be_written_are_not_measured(tmp_path: Path) -> None:
    wanted = tmp_path / "nowhere" / "figures.json"

    refused = run_cli(tmp_path, "bench", "serve", "--json", str(wanted))

    assert refused.returncode == 1
    assert refused.stderr.startswith(f"error: cannot write '{wanted}'")
