"""How the command line speaks: answers on standard output, progress and errors on standard error."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any

import msgspec
from rich.console import Console
from rich.table import Table

PIPE_COLUMNS = 1000

# Names, addresses ("[fd00::1]:8443") and answers are printed as they are: neither markup nor ":emoji:" is looked for.
# A table folds to fit a terminal; in a pipe each of its rows is one line.
out = Console(
    highlight=False, soft_wrap=True, markup=False, emoji=False, width=None if sys.stdout.isatty() else PIPE_COLUMNS
)
err = Console(stderr=True, highlight=False, soft_wrap=True, markup=False, emoji=False)


# What a model or another machine says must not move the cursor or rename the window: C0 and C1, save tab and newline.
_CONTROLS = dict.fromkeys([*range(9), *range(11, 32), *range(127, 160)])


def plain(text: str) -> str:
    """``text`` without the characters that command a terminal."""
    return text.translate(_CONTROLS)


def print_json(document: object) -> None:
    """One JSON document on standard output, as ``--json`` promises."""
    sys.stdout.write(msgspec.json.format(msgspec.json.encode(document), indent=2).decode() + "\n")
    sys.stdout.flush()


def print_table(columns: Iterable[str], rows: Iterable[Iterable[Any]], *, empty: str) -> None:
    """A plain table, or the sentence ``empty`` when there is no row."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    filled = [[plain(str(cell)) for cell in row] for row in rows]
    for row in filled:
        table.add_row(*row)
    out.print(table if filled else empty)


def print_error(message: str, hint: str | None) -> None:
    """``error: …`` and ``hint: …``."""
    err.print("error:", style="bold red", end=" ")
    err.print(plain(message))
    if hint:
        err.print("hint:", style="bold", end="  ")
        err.print(plain(hint))
