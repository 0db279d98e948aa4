"""Progress bars for work that takes longer than a breath. Silent when nobody watches a terminal."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from rpcmesh.cli.output import err

Report = Callable[[str, float], None]


@contextlib.contextmanager
def task(title: str) -> Iterator[Report]:
    """Show ``title`` with a bar; the yielded function takes what is going on and the fraction done (0 to 1)."""
    columns = (
        SpinnerColumn(finished_text="✓"),
        TextColumn("{task.description}"),
        BarColumn(bar_width=32),
        TextColumn("{task.fields[stage]}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=err, transient=False) as bar:
        shown = bar.add_task(title, total=1.0, stage="")

        def report(stage: str, fraction: float) -> None:
            bar.update(shown, completed=fraction, stage=stage)

        yield report
        bar.update(shown, completed=1.0, stage="")
