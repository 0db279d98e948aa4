"""``rpcmesh bench chaos``: a mesh under faults, and what became of its streams."""

from __future__ import annotations

from pathlib import Path

import click

from rpcmesh import paths
from rpcmesh.bench import chaos as faulty
from rpcmesh.bench.rounds import percentile
from rpcmesh.cli import figures, progress
from rpcmesh.cli.build import open_or_build
from rpcmesh.cli.demo import MODEL, demo_key
from rpcmesh.cli.output import out, print_table
from rpcmesh.cli.running import hold_signals, run, stopped_early
from rpcmesh.demo import home as demo_home
from rpcmesh.engine.reference import MARGIN_MAX
from rpcmesh.models import catalog


@click.command()
@click.option("--seed", type=int, default=1, show_default=True, help="Draws the faults: an equal seed, equal faults.")
@click.option("--faults", type=click.IntRange(1, 10000), default=20, show_default=True, help="How many.")
@click.option("--streams", type=click.IntRange(1, 64), default=4, show_default=True, help="Clients at the same time.")
@click.option("--nodes", type=click.IntRange(2, 8), default=3, show_default=True, help="Nodes on this machine.")
@click.option("--tokens", type=click.IntRange(16, 400), default=160, show_default=True, help="Tokens of each answer.")
@figures.JSON_FILE
def chaos(seed: int, faults: int, streams: int, nodes: int, tokens: int, json_file: Path | None) -> None:
    """Kill and freeze parts of a mesh while clients read answers, and check every token of each.

    Exit status 1 when a stream was lost, or a token is missing, doubled, or not the model's own choice.
    """
    figures.require_writable(json_file)
    wishes = faulty.Wishes(seed, faults, streams, nodes, tokens)
    built = open_or_build("auto", None)
    with progress.task(f"model {MODEL}") as report:
        model = catalog.pull(MODEL, paths.default_cache(), report)
    hold_signals()
    with demo_home.claimed(tuple(f"node-{number}" for number in range(1, nodes + 1))) as home:
        outcomes: list[faulty.Outcome] = []

        async def measure() -> None:
            outcomes.append(await faulty.run(home, built, model, wishes, demo_key, out.print))

        run(stopped_early(measure()))
    _show_chaos(outcomes[0])
    figures.write(outcomes[0], json_file)
    if not outcomes[0].clean:
        raise SystemExit(1)


def _show_chaos(outcome: faulty.Outcome) -> None:
    out.print()
    rows = []
    for kind in sorted({each.kind for each in outcome.happened}):
        of_kind = [each for each in outcome.happened if each.kind == kind]
        felt = sum(each.recovery_s is not None for each in of_kind)
        waits = faulty.waits_of(of_kind, crowded=False)
        shown = [f"{percentile(waits, share):.2f} s" if waits else "-" for share in (0.5, 1.0)]
        rows.append((kind, str(len(of_kind)), str(felt), *shown))
    print_table(("FAULT", "TIMES", "FELT", "RECOVERY P50", "MAX"), rows, empty="")
    out.print(
        f"\n{outcome.streams} streams, {outcome.tokens} tokens: {len(outcome.lost)} streams lost, "
        f"{outcome.miscounted} with a token missing or doubled, {outcome.wrong_tokens} wrong tokens "
        f"(worst margin {outcome.worst_margin:.2f} of {MARGIN_MAX})"
    )
    out.print(
        f"recovery {outcome.recovery_p50_s:.2f} s P50, {outcome.recovery_p95_s:.2f} s P95, "
        f"{outcome.recovery_max_s:.2f} s at most; "
        f"where one fault followed another at once, {outcome.crowded_max_s:.2f} s at most"
    )
    for error in sorted(set(outcome.lost)):
        out.print(f"lost: {error}")
