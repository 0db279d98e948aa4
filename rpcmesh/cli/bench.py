"""``rpcmesh bench …``: figures beside their rivals, on this machine."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import click
import msgspec

from rpcmesh import native_build, paths
from rpcmesh.bench import chaos as chaos_run
from rpcmesh.bench import decode, link
from rpcmesh.bench.rounds import Comparison
from rpcmesh.cli import progress
from rpcmesh.cli.build import open_or_build
from rpcmesh.cli.demo import MODEL, demo_key
from rpcmesh.cli.output import out, print_table
from rpcmesh.cli.running import run, stopped_early
from rpcmesh.demo import home as demo_home
from rpcmesh.demo.kill import MARGIN_MAX
from rpcmesh.errors import RpcmeshError
from rpcmesh.models import catalog

PINGS = 2000


class Figures(msgspec.Struct, frozen=True):
    """What ``--json`` writes."""

    compared: tuple[Comparison, ...]
    round_trip: link.RoundTrip


@click.group()
def bench() -> None:
    """Measure rpcmesh beside its rivals, in one run, turn about."""


@bench.command()
@click.option("--rounds", type=click.IntRange(1, 100), default=7, show_default=True, help="How many pairs of turns.")
@click.option("--tokens", type=click.IntRange(16, 900), default=128, show_default=True, help="Tokens in each turn.")
@click.option(
    "--json",
    "json_file",
    type=click.Path(path_type=Path, dir_okay=False, writable=True),
    help="Write the figures here too.",
)
def tunnel(rounds: int, tokens: int, json_file: Path | None) -> None:
    """Decode, push bytes and ping through mutual TLS, beside what has none.

    Decoding: SmolLM2 split over two workers on this machine, one thread each, through the mesh and over llama.cpp's own
    plaintext RPC. Bytes and pings: through both tunnels, beside bare encryption and a bare Unix socket.
    """
    if json_file is not None and not os.access(json_file.absolute().parent, os.W_OK):
        raise RpcmeshError(
            f"cannot write {str(json_file)!r}: its directory is missing or not yours", hint="choose another --json FILE"
        )
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
@click.option("--seed", type=int, default=1, show_default=True, help="Draws the faults: an equal seed, equal faults.")
@click.option("--faults", type=click.IntRange(1, 10000), default=20, show_default=True, help="How many.")
@click.option("--streams", type=click.IntRange(1, 64), default=4, show_default=True, help="Clients at the same time.")
@click.option("--nodes", type=click.IntRange(2, 8), default=3, show_default=True, help="Nodes on this machine.")
@click.option("--tokens", type=click.IntRange(16, 400), default=160, show_default=True, help="Tokens of each answer.")
@click.option(
    "--json",
    "json_file",
    type=click.Path(path_type=Path, dir_okay=False, writable=True),
    help="Write the figures here too.",
)
def chaos(seed: int, faults: int, streams: int, nodes: int, tokens: int, json_file: Path | None) -> None:
    """Kill and freeze parts of a mesh while clients read answers, and check every token of each.

    Exit status 1 when a stream was lost, or a token is missing, doubled, or not the model's own choice.
    """
    wishes = chaos_run.Wishes(seed, faults, streams, nodes, tokens)
    built = open_or_build("auto", None)
    with progress.task(f"model {MODEL}") as report:
        model = catalog.pull(MODEL, paths.default_cache(), report)
    with demo_home.claimed(tuple(f"node-{number}" for number in range(1, nodes + 1))) as home:
        outcomes: list[chaos_run.Outcome] = []

        async def measure() -> None:
            outcomes.append(await chaos_run.run(home, built, model, wishes, demo_key, out.print))

        run(stopped_early(measure()))
    _show_chaos(outcomes[0])
    if json_file is not None:
        json_file.write_bytes(msgspec.json.format(msgspec.json.encode(outcomes[0]), indent=2) + b"\n")
    if not outcomes[0].clean:
        raise SystemExit(1)


def _show_chaos(outcome: chaos_run.Outcome) -> None:
    out.print()
    rows = []
    for kind in sorted({each.kind for each in outcome.happened}):
        felt = sorted(each.recovery_s for each in outcome.happened if each.kind == kind and each.recovery_s is not None)
        of_kind = sum(each.kind == kind for each in outcome.happened)
        worst = f"{felt[-1]:.2f} s" if felt else "-"
        rows.append((kind, str(of_kind), str(len(felt)), f"{chaos_run.percentile(felt, 0.5):.2f} s", worst))
    print_table(("FAULT", "TIMES", "FELT", "RECOVERY P50", "MAX"), rows, empty="")
    out.print(
        f"\n{outcome.streams} streams, {outcome.tokens} tokens: {len(outcome.lost)} streams lost, "
        f"{outcome.miscounted} with a token missing or doubled, {outcome.wrong_tokens} wrong tokens "
        f"(worst margin {outcome.worst_margin:.2f} of {MARGIN_MAX})"
    )
    out.print(
        f"recovery {outcome.recovery_p50_s:.2f} s P50, {outcome.recovery_p95_s:.2f} s P95, "
        f"{outcome.recovery_max_s:.2f} s at most"
    )
    for error in sorted(set(outcome.lost)):
        out.print(f"lost: {error}")


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


def _show(figures: Figures, json_file: Path | None) -> None:
    print_table(
        ("WHAT", "RPCMESH", "RIVAL", "RATIO", "RIVAL IS"),
        [
            (one.what, f"{one.ours:.2f} {one.unit}", f"{one.rival:.2f} {one.unit}", f"{one.ratio:.2f}", one.rival_name)
            for one in figures.compared
        ],
        empty="",
    )
    trip = figures.round_trip
    out.print(
        f"round trip of 64 bytes: {trip.tunnel_p50_us:.0f} us P50, {trip.tunnel_p99_us:.0f} us P99; "
        f"{trip.added_p50_us:.0f} and {trip.added_p99_us:.0f} us more than over a bare Unix socket"
    )
    if json_file is not None:
        json_file.write_bytes(msgspec.json.format(msgspec.json.encode(figures), indent=2) + b"\n")
        out.print(f"written: {json_file}")
