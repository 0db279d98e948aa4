"""``rpcmesh bench …``: figures beside their rivals, on this machine."""

from __future__ import annotations

import tempfile
from pathlib import Path

import click
import msgspec

from rpcmesh import native_build, paths
from rpcmesh.bench import decode
from rpcmesh.bench.rounds import Comparison
from rpcmesh.cli import progress
from rpcmesh.cli.build import open_or_build
from rpcmesh.cli.demo import MODEL
from rpcmesh.cli.output import out, print_table
from rpcmesh.cli.running import run, stopped_early
from rpcmesh.models import catalog


@click.group()
def bench() -> None:
    """Measure rpcmesh beside its rivals, in one run, turn about."""


@bench.command()
@click.option("--rounds", type=click.IntRange(1, 100), default=7, show_default=True, help="How many pairs of turns.")
@click.option("--tokens", type=click.IntRange(16, 900), default=128, show_default=True, help="Tokens in each turn.")
@click.option(
    "--json", "json_file", type=click.Path(path_type=Path, dir_okay=False), help="Write the figures here too."
)
def tunnel(rounds: int, tokens: int, json_file: Path | None) -> None:
    """Decode through mutual TLS, and through llama.cpp's own RPC in plaintext.

    Both split SmolLM2 over two workers on this machine, with one thread each.
    """
    built = open_or_build("auto", None)
    with progress.task("rival build") as report:
        stock = native_build.stock(
            cache=paths.default_cache(), native=paths.shipped("native"), backend=built.backend, progress=report
        )
    with progress.task(f"model {MODEL}") as report:
        model = catalog.pull(MODEL, paths.default_cache(), report)
    with tempfile.TemporaryDirectory(prefix="rpcmesh-bench-") as scratch:

        async def measure() -> None:
            home = paths.Home(Path(scratch) / "home")
            found = await decode.compare(home, built, stock, model, tokens=tokens, repeats=rounds)
            _show([found], json_file)

        run(stopped_early(measure()))


def _show(found: list[Comparison], json_file: Path | None) -> None:
    print_table(
        ("WHAT", "RPCMESH", "RIVAL", "RATIO", "RIVAL IS"),
        [
            (one.what, f"{one.ours:.1f} {one.unit}", f"{one.rival:.1f} {one.unit}", f"{one.ratio:.2f}", one.rival_name)
            for one in found
        ],
        empty="",
    )
    if json_file is not None:
        json_file.write_bytes(msgspec.json.format(msgspec.json.encode(found), indent=2) + b"\n")
        out.print(f"written: {json_file}")
