"""``rpcmesh bench serve``: our endpoint under load, beside llama-server's."""

from __future__ import annotations

import os
from pathlib import Path

import click
import msgspec

from rpcmesh import paths
from rpcmesh.bench import overhead as gateway_overhead
from rpcmesh.bench import serve as served
from rpcmesh.bench.closed_loop import Latency
from rpcmesh.cli import figures, progress
from rpcmesh.cli.build import open_or_build
from rpcmesh.cli.demo import MODEL, demo_key
from rpcmesh.cli.output import out, print_table
from rpcmesh.cli.running import hold_signals, run, stopped_early
from rpcmesh.demo import home as demo_home
from rpcmesh.models import catalog
from rpcmesh.native_build import rival as rival_build
from rpcmesh.observe import logs

# Where the gateway that is measured alone has its certificate and its key, beside the nodes' homes.
GATEWAY_HOME = "gateway"


class Figures(msgspec.Struct, frozen=True):
    """What ``--json`` writes."""

    cores: int
    tokens: int
    rounds: int
    rows: tuple[served.Row, ...]
    overhead: gateway_overhead.Overhead | None


class StreamCounts(click.ParamType[tuple[int, ...]]):
    """``1,4,16``: numbers of clients, each up to the engine's slots."""

    name = "COUNTS"

    def convert(
        self, value: str | tuple[int, ...], param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, ...]:
        if isinstance(value, tuple):
            return value
        counts = [int(part) if part.isascii() and part.isdigit() else 0 for part in value.split(",")]
        if not all(1 <= count <= served.ENGINE.n_seq_max for count in counts):
            self.fail(f"{value!r} are not numbers from 1 to {served.ENGINE.n_seq_max}, like 1,4,16", param, ctx)
        return tuple(counts)


@click.command()
@click.option(
    "--streams", type=StreamCounts(), default="1,4,16", show_default=True, help="How many clients, one row each."
)
@click.option("--rounds", type=click.IntRange(1, 100), default=5, show_default=True, help="How many pairs of turns.")
@click.option("--tokens", type=click.IntRange(2, 400), default=64, show_default=True, help="Tokens of a whole answer.")
@click.option("--rival/--alone", default=None, help="Compile llama-server first, or leave it out even if it is there.")
@click.option("--overhead", is_flag=True, help="Also: what the gateway adds to the time to a first token.")
@figures.JSON_FILE
def serve(
    streams: tuple[int, ...], rounds: int, tokens: int, rival: bool | None, overhead: bool, json_file: Path | None
) -> None:
    """Answer many clients at once, over HTTPS and two nodes on this machine.

    Where llama-server was compiled (--rival), it answers the same questions turn about, with two workers over plaintext
    RPC: the same source, options, model, context, slots and threads.
    """
    figures.require_writable(json_file)
    # The gateway that is measured alone runs in this process; its line for each request would stand between ours.
    logs.configure("warning")
    built = open_or_build("auto", None)
    beside = None if rival is False else rival_build.built(paths.default_cache(), built.backend)
    if rival and beside is None:
        with progress.task("llama-server build") as report:
            beside = rival_build.build(cache=paths.default_cache(), backend=built.backend, progress=report)
    with progress.task(f"model {MODEL}") as report:
        model = catalog.pull(MODEL, paths.default_cache(), report)
    wishes = served.Wishes(streams, rounds, tokens)
    hold_signals()
    with demo_home.claimed((*served.NODES, GATEWAY_HOME)) as home:

        async def measure() -> None:
            with progress.task("measure") as report:
                rows = await served.compare(home, built, beside, model, wishes, demo_key, report)
            added = None
            if overhead:
                alone = paths.Home(home.root / "nodes" / GATEWAY_HOME)
                added = await gateway_overhead.measure(alone, built, model, demo_key)
            measured = Figures(os.cpu_count() or 1, tokens, rounds, rows, added)
            show(measured)
            figures.write(measured, json_file)

        run(stopped_early(measure()))


def show(measured: Figures) -> None:
    rows = []
    for row in measured.rows:
        sides = [("rpcmesh", row.ours), (served.RIVAL_NAME, row.rival)]
        for name, side in sides:
            if side is not None:
                ratio = f"{row.ratio:.2f}" if row.ratio is not None and side is row.ours else ""
                rows.append(
                    (str(row.streams), name, f"{side.tokens_per_s:.1f} tokens/s", ratio, *_latency(side.latency))
                )
    print_table(
        ("STREAMS", "SERVER", "TOGETHER", "RATIO", "FIRST TOKEN P50", "P95", "BETWEEN P50", "P95"), rows, empty=""
    )
    ours = [row.ours for row in measured.rows]
    theirs = [row.rival for row in measured.rows if row.rival is not None]
    out.print(
        f"\n{measured.cores} cores; answers of {measured.tokens} tokens; medians of {measured.rounds} turns. "
        f"At most, the clients took {max(side.clients_cpu for side in (*ours, *theirs)):.2f} of a core"
        + (
            f", and the side that was not asked {max(side.idle_cpu for side in (*ours, *theirs)):.2f}."
            if theirs
            else "."
        )
    )
    if (added := measured.overhead) is not None:
        out.print(
            f"first token of one engine without workers: {added.direct_p50_ms:.2f} ms P50 asked directly, "
            f"{added.gateway_p50_ms:.2f} ms through the gateway: {added.added_p50_ms:.2f} ms more (target: 2 ms)"
        )
    if not theirs:
        out.print("alone: for llama-server beside it, make bench-rival")


def _latency(latency: Latency) -> tuple[str, ...]:
    figures_ms = (latency.first_p50_ms, latency.first_p95_ms, latency.between_p50_ms, latency.between_p95_ms)
    return tuple(f"{figure:.0f} ms" for figure in figures_ms)
