"""What can be done to a machine, as values. Nothing here does any of it."""

from __future__ import annotations

import shlex
from pathlib import PurePosixPath
from typing import Literal

import msgspec

Argv = tuple[str, ...]


class WriteFile(msgspec.Struct, frozen=True, tag=True):
    """Put ``content`` at ``path``; nothing to do when content, mode and owner are already so."""

    path: PurePosixPath
    mode: int
    owner: str
    content: str


class MakeDirectory(msgspec.Struct, frozen=True, tag=True):
    """``path`` with this mode and owner. Missing parents are made as root's, 0755; existing ones are left alone."""

    path: PurePosixPath
    mode: int
    owner: str


class MakeUser(msgspec.Struct, frozen=True, tag=True):
    """Run ``commands`` in turn, unless the user ``name`` exists."""

    name: str
    commands: tuple[Argv, ...]


class Run(msgspec.Struct, frozen=True, tag=True):
    """Run ``argv``, which must succeed; when a condition is given, only if that command succeeds, or fails."""

    argv: Argv
    # Only when a file was written or removed by a step before this one.
    after_change: bool = False
    only_if: Argv = ()
    unless: Argv = ()


class WaitUntilFails(msgspec.Struct, frozen=True, tag=True):
    """Ask ``argv`` again and again until it fails: what it asks about is gone. At most ``limit_s``."""

    argv: Argv
    limit_s: float
    after_change: bool = False


class Remove(msgspec.Struct, frozen=True, tag=True):
    """Take ``path`` away if it is there: a file, a directory with all that is in it, or a directory if empty."""

    path: PurePosixPath
    what: Literal["file", "tree", "empty directory"] = "file"


Step = WriteFile | MakeDirectory | MakeUser | Run | WaitUntilFails | Remove


def owner(user: str, group: str = "") -> str:
    """``user:group``; without a group, the one that has the user's name."""
    return f"{user}:{group or user}"


def line(step: Step) -> str:
    """One step in one line, commands as one would type them."""
    match step:
        case WriteFile(path, mode, whose, _):
            return f"write {path} (mode {mode:04o}, {whose})"
        case MakeDirectory(path, mode, whose):
            return f"make directory {path} (mode {mode:04o}, {whose})"
        case MakeUser(name, commands):
            return "\n".join((f"make user {name}:", *(f"  {shlex.join(argv)}" for argv in commands)))
        case Run(argv, after_change, only_if, unless):
            conditions = (
                "something changed" if after_change else "",
                f"this succeeds: {shlex.join(only_if)}" if only_if else "",
                f"this fails: {shlex.join(unless)}" if unless else "",
            )
            return f"run {shlex.join(argv)}" + _only_if(*conditions)
        case WaitUntilFails(argv, limit_s, after_change):
            return f"wait up to {limit_s:g} s until this fails: {shlex.join(argv)}" + _only_if(
                "something changed" if after_change else ""
            )
        case Remove(path, what):
            return f"remove {path}" + {"file": "", "tree": " and all below it", "empty directory": " if empty"}[what]


def _only_if(*conditions: str) -> str:
    given = [condition for condition in conditions if condition]
    return f"  # only if {' and '.join(given)}" if given else ""
