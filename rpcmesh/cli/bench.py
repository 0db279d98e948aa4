"""``rpcmesh bench …``: figures beside their rivals, on this machine."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import click
import msgspec

from rpcmesh import native_build, paths
from rpcmesh.bench import decode, link
from rpcmesh.bench import guard as guard_cost
from rpcmesh.bench.rounds import Comparison
from rpcmesh.cli import figures, progress
from rpcmesh.cli.bench_chaos import chaos
from rpcmesh.cli.bench_prefill import prefill
from rpcmesh.cli.bench_serve import serve
from rpcmesh.cli.bench_snapshot import snapshot
from rpcmesh.cli.bench_step import step
from rpcmesh.cli.build import open_or_build
from rpcmesh.cli.demo import MODEL
from rpcmesh.cli.output import out, print_table
from rpcmesh.cli.running import run, stopped_early
from rpcmesh.models import catalog

PINGS = 2000


class Figures(msgspec.Struct, frozen=True):
    """What ``--json`` of ``tunnel`` writes."""

    compared: tuple[Comparison, ...]
    round_trip: link.RoundTrip


class GuardFigures(msgspec.Struct, frozen=True):
    """What ``--json`` of ``guard`` writes."""

    alone: guard_cost.Alone
    decode: Comparison


@click.group()
def bench() -> None:
    """Measure rpcmesh beside its rivals, in one run, turn about."""


_ROUNDS = click.option(
    "--rounds", type=click.IntRange(1, 100), default=7, show_default=True, help="How many pairs of turns."
)
_TOKENS = click.option(
    "--tokens", type=click.IntRange(16, 900), default=128, show_default=True, help="Tokens in each turn."
)


@bench.command()
@_ROUNDS
@_TOKENS
@figures.JSON_FILE
def tunnel(rounds: int, tokens: int, json_file: Path | None) -> None:
    """Decode, push bytes and ping through mutual TLS, beside what has none.

    Decoding: SmolLM2 split over two workers on this machine, one thread each, through the mesh and over llama.cpp's own
    plaintext RPC. Bytes and pings: through both tunnels, beside bare encryption and a bare Unix socket.
    """
    figures.require_writable(json_file)
    built = open_or_build("auto", None)
    with progress.task("rival build") as report:
        stock = native_build.stock(
            cache=paths.default_cache(), native=paths.shipped("native"), backend=built.backend, progress=report
        )
    with progress.task(f"model {MODEL}") as report:
        model = catalog.pull(MODEL, paths.default_cache(), report)
    with _scratch_homes() as (mesh_home, link_home):

        async def measure() -> None:
            compared = [await decode.compare(mesh_home, built, stock, model, tokens=tokens, repeats=rounds)]
            async with link.running(link_home, built) as both:
                if (pushed := await link.bulk(both, repeats=rounds)) is not None:
                    compared.append(pushed)
                pinged = await link.round_trip(both, pings=PINGS, repeats=rounds)
            _show(Figures(compared=tuple(compared), round_trip=pinged), json_file)

        run(stopped_early(measure()))


@bench.command()
@_ROUNDS
@_TOKENS
@figures.JSON_FILE
def guard(rounds: int, tokens: int, json_file: Path | None) -> None:
    """Measure what the check of every RPC message costs, beside what it may cost.

    The guard alone: the check of a graph as long as a large model's, and weights passing. Then decoding: SmolLM2 on a
    worker with one thread, through both tunnels, with the guard and under a name for which the tunnel has none.
    """
    figures.require_writable(json_file)
    built = open_or_build("auto", None)
    with progress.task(f"model {MODEL}") as report:
        model = catalog.pull(MODEL, paths.default_cache(), report)
    with progress.task("guard") as report:
        alone = guard_cost.alone(paths.default_cache(), paths.shipped("native"), report)
    with _scratch_homes() as (_, home):

        async def measure() -> None:
            decoded = await guard_cost.compare(home, built, model, tokens=tokens, repeats=rounds)
            _show_guard(GuardFigures(alone=alone, decode=decoded), json_file)

        run(stopped_early(measure()))


@contextlib.contextmanager
def _scratch_homes() -> Iterator[tuple[paths.Home, paths.Home]]:
    """The mesh's home and the bare link's, gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="rpcmesh-bench-") as scratch:
        mesh, bare = paths.Home(Path(scratch) / "mesh"), paths.Home(Path(scratch) / "link")
        try:
            yield mesh, bare
        finally:
            # The sockets of a home whose path is long lie elsewhere.
            for home in (mesh, bare, *(paths.Home(mesh.root / "nodes" / node) for node in decode.NODES)):
                shutil.rmtree(home.run, ignore_errors=True)


def _show(measured: Figures, json_file: Path | None) -> None:
    print_table(
        ("WHAT", "RPCMESH", "RIVAL", "RATIO", "RIVAL IS"),
        [
            (one.what, f"{one.ours:.2f} {one.unit}", f"{one.rival:.2f} {one.unit}", f"{one.ratio:.2f}", one.rival_name)
            for one in measured.compared
        ],
        empty="",
    )
    trip = measured.round_trip
    out.print(
        f"round trip of 64 bytes: {trip.tunnel_p50_us:.0f} us P50, {trip.tunnel_p99_us:.0f} us P99; "
        f"{trip.added_p50_us:.0f} and {trip.added_p99_us:.0f} us more than over a bare Unix socket"
    )
    figures.write(measured, json_file)


def _show_guard(measured: GuardFigures, json_file: Path | None) -> None:
    alone, decoded = measured.alone, measured.decode
    graph = f"check of a llama's graph, {alone.graph_nodes} nodes and {alone.graph_tensors} tensors"
    print_table(
        ("WHAT", "MEASURED", "TARGET"),
        [
            (graph, f"{alone.graph_check_us:.0f} us", "at most 150 us"),
            ("SET_TENSOR payloads, 256 KiB each", f"{alone.payloads_gb_s:.1f} GB/s", "at least 3 GB/s"),
            (
                f"{decoded.what}, over {decoded.rival_name}",
                f"{decoded.ratio:.3f} ({decoded.ours:.1f} and {decoded.rival:.1f} {decoded.unit})",
                "at least 0.99",
            ),
        ],
        empty="",
    )
    figures.write(measured, json_file)


bench.add_command(chaos)
bench.add_command(prefill)
bench.add_command(step)
bench.add_command(serve)
bench.add_command(snapshot)
