"""The commands of docs/operations.md, block by block, with the machine that each is typed on."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import msgspec

GUIDE = Path(__file__).parents[2] / "docs" / "operations.md"
SYSTEMS = {"linux", "macos"}
# Whom the words after ``console`` may name; ``later`` marks what is typed when the need arises.
WHO = {"both": ("coordinator", "node"), "coordinator": ("coordinator",), "node": ("node",), "client": ("client",)}

_HEADING = re.compile(r"^## (\d+)\. ")
_FENCE = re.compile(r"^```console ([a-z ]+)$")


class Block(msgspec.Struct, frozen=True):
    section: int
    system: str
    who: tuple[str, ...]
    later: bool
    commands: tuple[str, ...]


def blocks(text: str) -> Iterator[Block]:
    """Every block of commands, in order. Raises :class:`ValueError` for one that does not say where it is typed."""
    section, said, commands = 0, None, []
    for line in text.splitlines():
        if heading := _HEADING.match(line):
            section = int(heading[1])
        elif said is None and line.startswith("```"):
            fence = _FENCE.match(line)
            if fence is None:
                raise ValueError(f"{line!r} does not say on which machine it is typed")
            said, commands = fence[1].split(), []
        elif said is not None and line == "```":
            yield _block(section, said, commands)
            said = None
        elif said is not None:
            commands.append(line.removeprefix("$ "))


def _block(section: int, said: list[str], commands: list[str]) -> Block:
    system = next((word for word in said if word in SYSTEMS), "")
    rest = [word for word in said if word not in SYSTEMS | {"later"}]
    if len(rest) != 1 or rest[0] not in WHO:
        raise ValueError(f"{' '.join(said)!r} does not name one machine")
    return Block(section, system, WHO[rest[0]], "later" in said, tuple(commands))


def for_linux(section: int, *, later: bool = False) -> list[Block]:
    """What is typed on Linux in ``section``."""
    found = blocks(GUIDE.read_text())
    return [one for one in found if (one.section, one.later) == (section, later) and one.system != "macos"]
