"""``rpcmesh bench snapshot``: what saved KV cells are worth when an engine is lost, and what saving them costs."""

from __future__ import annotations

from pathlib import Path

import click
import msgspec

from rpcmesh import paths
from rpcmesh.bench import resume
from rpcmesh.bench.decode import NODES
from rpcmesh.cli import figures, progress
from rpcmesh.cli.build import open_or_build
from rpcmesh.cli.demo import MODEL
from rpcmesh.cli.output import out, print_table
from rpcmesh.cli.running import hold_signals, run, stopped_early
from rpcmesh.demo import home as demo_home
from rpcmesh.models import catalog


class SnapshotFigures(msgspec.Struct, frozen=True):
    """What ``--json`` writes."""

    measured: tuple[resume.Measured, ...]


@click.command()
@click.option(
    "--tokens",
    type=click.IntRange(64, 3600),
    multiple=True,
    default=(500, 1000, 2000, 3500),
    show_default=True,
    help="Length of a prompt; repeat it for several.",
)
@click.option("--rounds", type=click.IntRange(1, 100), default=2, show_default=True, help="How often, each.")
@figures.JSON_FILE
def snapshot(tokens: tuple[int, ...], rounds: int, json_file: Path | None) -> None:
    """Lose an engine in the middle of an answer to a long prompt, and go on with and without its saved KV cells.

    SmolLM2 split over two workers on this machine, one thread each, through the mesh. In each round one engine reads
    the prompt and is killed; the next goes on one way, is killed, and the one after it the other way.
    """
    figures.require_writable(json_file)
    built = open_or_build("auto", None)
    with progress.task(f"model {MODEL}") as report:
        model = catalog.pull(MODEL, paths.default_cache(), report)
    hold_signals()
    with demo_home.claimed(NODES) as home:

        async def measure() -> None:
            measured = await resume.compare(home, built, model, lengths=tokens, repeats=rounds, say=_say)
            _show(SnapshotFigures(measured), json_file)

        run(stopped_early(measure()))


def _say(one: resume.Measured) -> None:
    out.print(f"{one.prompt_tokens} tokens: restored {one.restored_s:.2f} s, prefilled {one.prefilled_s:.2f} s")


def _show(told: SnapshotFigures, json_file: Path | None) -> None:
    out.print()
    print_table(
        ("PROMPT", "LOSS TO TOKEN", "PREFILLED", "RATIO", "SAVED", "IN", "LONGEST GAP BESIDE", "CALM"),
        [
            (
                f"{one.prompt_tokens} tokens",
                f"{one.restored_s:.2f} s",
                f"{one.prefilled_s:.2f} s",
                f"{one.ratio:.2f}",
                f"{one.saved_bytes / (1 << 20):.1f} MiB",
                f"{one.saving_ms:.0f} ms",
                f"{one.gap_saving_ms:.0f} ms",
                f"{one.gap_calm_ms:.0f} ms",
            )
            for one in told.measured
        ],
        empty="",
    )
    figures.write(told, json_file)
