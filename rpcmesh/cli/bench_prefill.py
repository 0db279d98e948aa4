"""``rpcmesh bench prefill``: what a running stream feels of a long prompt beside it."""

from __future__ import annotations

from pathlib import Path

import click

from rpcmesh import paths
from rpcmesh.bench import fairness
from rpcmesh.cli import figures, progress
from rpcmesh.cli.build import open_or_build
from rpcmesh.cli.demo import MODEL, demo_key
from rpcmesh.cli.output import out, print_table
from rpcmesh.cli.running import hold_signals, run, stopped_early
from rpcmesh.demo import home as demo_home
from rpcmesh.models import catalog


@click.command()
@click.option("--rounds", type=click.IntRange(1, 100), default=3, show_default=True, help="How many pairs of turns.")
@click.option(
    "--prompt-tokens", type=click.IntRange(64, 4000), default=4000, show_default=True, help="Length of the prompt."
)
@figures.JSON_FILE
def prefill(rounds: int, prompt_tokens: int, json_file: Path | None) -> None:
    """Prefill a long prompt beside a running stream, and time the stream's tokens, turn about with none beside it.

    SmolLM2 on two nodes of this machine, through gateway, tunnels and guard. 95 of 100 pauses are to be at most twice
    as long as those of the stream alone.
    """
    figures.require_writable(json_file)
    built = open_or_build("auto", None)
    with progress.task(f"model {MODEL}") as report:
        model = catalog.pull(MODEL, paths.default_cache(), report)
    hold_signals()
    with demo_home.claimed(fairness.NODES) as home:
        measured: list[fairness.Fairness] = []

        async def measure() -> None:
            wishes = fairness.Wishes(prompt_tokens, rounds)
            measured.append(await fairness.run(home, built, model, wishes, demo_key))

        run(stopped_early(measure()))
    _show(measured[0])
    figures.write(measured[0], json_file)


def _show(measured: fairness.Fairness) -> None:
    rows = [
        (name, f"{turn.p50_ms:.1f} ms", f"{turn.p95_ms:.1f} ms", f"{turn.max_ms:.1f} ms", str(turn.tokens))
        for name, turn in (
            ("alone", measured.alone),
            (f"beside a prompt of {measured.prompt_tokens} tokens", measured.beside),
        )
    ]
    print_table(("ONE STREAM", "PAUSE P50", "P95", "MAX", "TOKENS"), rows, empty="")
    out.print(
        f"P95 beside over P95 alone: {measured.p95_ratio:.2f} (target at most 2); "
        f"first token of the prompt after {measured.beside.first_token_s:.1f} s"
    )
