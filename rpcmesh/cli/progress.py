"""Progress bars for work that takes longer than a breath. Silent when nobody watches a terminal."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn

from rpcmesh.cli.output import err

ALMOST = 0.999

Report = Callable[[str, float], None]


@contextlib.contextmanager
def task(title: str) -> Iterator[Report]:
    """Show ``title`` with a bar; the yielded function takes what is going on and the fraction done (0 to 1).

    The bar appears with the first call: where there was nothing to do, there is nothing to see.
    """
    columns = (
        SpinnerColumn(finished_text="✓"),
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=32),
        TextColumn("{task.fields[stage]}", markup=False),
        TimeElapsedColumn(),
    )
    bar = Progress(*columns, console=err, transient=False)
    shown: list[TaskID] = []

    def report(stage: str, fraction: float) -> None:
        if not shown:
            bar.start()
            shown.append(bar.add_task(title, total=1.0, stage=stage))
        # A stage may end at 1; the whole is done when the block is left.
        bar.update(shown[0], completed=min(fraction, ALMOST), stage=stage)

    try:
        yield report
        for task_id in shown:
            bar.update(task_id, completed=1.0, stage="")
    finally:
        if shown:
            bar.stop()
