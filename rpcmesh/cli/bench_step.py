"""``rpcmesh bench step``: how much of an engine's step is Python."""

from __future__ import annotations

from pathlib import Path

import click

from rpcmesh import paths
from rpcmesh.bench import step as step_cost
from rpcmesh.cli import figures, progress
from rpcmesh.cli.build import open_or_build
from rpcmesh.cli.demo import MODEL
from rpcmesh.cli.output import out
from rpcmesh.models import catalog


@click.command()
@click.option("--sequences", type=click.IntRange(1, 64), default=16, show_default=True, help="That decode together.")
@click.option("--steps", type=click.IntRange(20, 900), default=200, show_default=True, help="How many are measured.")
@figures.JSON_FILE
def step(sequences: int, steps: int, json_file: Path | None) -> None:
    """Time the steps of an engine with SmolLM2 on this machine's CPU, and llama.cpp's part of them."""
    figures.require_writable(json_file)
    built = open_or_build("auto", None)
    with progress.task(f"model {MODEL}") as report:
        model = catalog.pull(MODEL, paths.default_cache(), report)
    measured = step_cost.measure(built, model, sequences=sequences, steps=steps)
    out.print(
        f"a step of {measured.sequences} sequences: {measured.step_ms:.2f} ms, of which {measured.llama_ms:.2f} ms are "
        f"llama.cpp's; Python {measured.python_share:.1%} (target below 5 %)"
    )
    figures.write(measured, json_file)
