"""docs/threat-model.md as rows: tables with what stands above them, and the tests that cells name."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import msgspec

ROOT = Path(__file__).parents[3]
DOCUMENT = ROOT / "docs" / "threat-model.md"

_HEADING = re.compile(r"^#+ (.*)$")
_TEST = re.compile(r"`((?:native/)?tests/[\w/]+\.(?:py|cpp))::(\w+)`")
_NATIVE = re.compile(r"\bTEST\((\w+)\)")


class Named(msgspec.Struct, frozen=True, order=True):
    """A test as the document names it."""

    file: str
    test: str


class Row(msgspec.Struct, frozen=True):
    """One row of a table below ``heading``; ``cells`` by the table's column names."""

    heading: str
    cells: dict[str, str]


def rows(text: str) -> Iterator[Row]:
    heading, columns = "", []
    for line in text.splitlines():
        if found := _HEADING.match(line):
            heading = found[1]
        if not line.startswith("|"):
            columns = []
            continue
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if not columns:
            columns = cells
        elif not set(line) <= set("|-"):
            yield Row(heading, dict(zip(columns, cells, strict=True)))


def named(text: str) -> list[Named]:
    return [Named(file, test) for file, test in _TEST.findall(text)]


def names_in(file: Path) -> set[str]:
    """Of a Python file its test functions, in classes too; of a C++ file what it lists for check::run."""
    text = file.read_text()
    if file.suffix == ".cpp":
        return set(_NATIVE.findall(text))
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    return {
        item.name for item in ast.walk(ast.parse(text)) if isinstance(item, functions) and item.name.startswith("test_")
    }
