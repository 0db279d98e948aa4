"""Loads the rules, reads them back and takes them away. Whatever goes wrong on the way, the former rules come back.

The caller holds :func:`owner.changing` around everything but :func:`verify`.
"""

from __future__ import annotations

import contextlib
import os
import select
import sys
import termios
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

from rpcmesh.errors import RpcmeshError
from rpcmesh.firewall import commands, endings
from rpcmesh.firewall.loaded import (
    AS_MEANT,
    Backend,
    Command,
    Loaded,
    Record,
    Tool,
    Verdict,
    after_exchange,
    cut_off,
    judge,
    pf_holds,
    pf_token,
    tool,
)
from rpcmesh.firewall.owner import acting_as_owner
from rpcmesh.firewall.policy import Role
from rpcmesh.firewall.rules import Rules
from rpcmesh.pki.files import read_private, write_private


class EndedError(RpcmeshError):
    """A signal ended the change."""


def record_path(home: Path) -> Path:
    return home / "firewall.json"


def apply(backend: Backend, home: Path, rules: Rules, confirmed: Callable[[], bool] = lambda: True) -> None:
    """Load ``rules`` in one step, and keep them if ``confirmed`` says so.

    Else, on any error and on SIGINT, SIGTERM or SIGHUP, the rules, the record and pf's reference are again what they
    were. Raises :class:`RpcmeshError` then.
    """
    how = tool(backend, rules.role)
    former, former_record = _read(how), _record(home)
    way_back = how.restore(former)
    if former is not None:
        # Before anything changes: rules that somebody wrote by hand must be ones that can be brought back.
        commands.run(how.check(way_back.stdin))
    token = former_record.token if former_record else ""
    new_token = ""
    with endings.by_exception():
        try:
            commands.run(how.load(rules.text))
            if former_record is not None:
                _run_all(how.cut(cut_off(former_record.tables, rules.tables)))
            if how.enable and not pf_holds(token, commands.output(how.holders)):
                token = new_token = pf_token(commands.output(how.enable))
            found = _read(how)
            seen = found.text if found else ""
            record = Record(backend, rules.frame_sha256, rules.tables, rules.node_ports, seen, token)
            _write(home, record)
            verdict = judge(found, record, rules)
            if verdict != AS_MEANT:
                raise RpcmeshError(verdict.problem, hint="the former rules are back: rpcmesh firewall check")
            if not confirmed():
                raise RpcmeshError("no answer: the former rules are back", hint="rpcmesh firewall apply")
        except BaseException as error:
            with endings.undisturbed(), _named("the former rules could not be brought back"):
                commands.run(way_back)
                if new_token:
                    commands.run(Command((*how.release, new_token)))
                _write(home, former_record)
            if isinstance(error, KeyboardInterrupt):
                raise EndedError("interrupted: the former rules are back") from error
            raise


def exchange(backend: Backend, home: Path, rules: Rules) -> bool:
    """Put the mesh's addresses, if they have changed, in force; what addresses that left still have open ends.

    The loaded tables change and nothing else, unless nodes listen on other ports than before: those stand in the rules.
    False, and nothing done, where something else differs from what is loaded: that is an admin's to apply.
    """
    how = tool(backend, rules.role)
    found, record = _read(how), _record(home)
    if found is None or record is None or found.text != record.loaded or record.frame_sha256 != rules.frame_sha256:
        return False
    if (record.tables, record.node_ports) == (rules.tables, rules.node_ports):
        return False
    same_ports = record.node_ports == rules.node_ports
    with endings.held_back():
        _run_all(how.exchange(rules.tables) if same_ports else (how.load(rules.text),))
        _run_all(how.cut(cut_off(record.tables, rules.tables)))
        _write(home, after_exchange(how, record, rules, _read(how)))
    return True


def verify(backend: Backend, home: Path, rules: Rules) -> Verdict:
    """What is loaded, against ``rules`` and against what ``apply`` left."""
    return judge(_read(tool(backend, rules.role)), _record(home), rules)


def remove(backend: Backend, home: Path, role: Role) -> bool:
    """Take the rules and the record away. False when there were none of either."""
    how = tool(backend, role)
    found, record = _read(how), _record(home)
    with endings.undisturbed():
        if found is not None:
            commands.run(how.restore(None))
        if record is not None and pf_holds(record.token, commands.output(how.holders) if how.holders else ""):
            commands.run(Command((*how.release, record.token)))
        _write(home, None)
    return found is not None or record is not None


def forget_abusers(backend: Backend, role: Role) -> None:
    """Let abusers go whose time is over, where the kernel does not do that by itself."""
    how = tool(backend, role)
    if how.expire:
        commands.run(Command(how.expire))


def enter_within(limit_s: float) -> bool:
    """Whether a line comes on standard input in time. Its end is a no: nobody is left who could answer."""
    stdin = sys.stdin.fileno()
    with contextlib.suppress(termios.error):
        # What was typed before the question is no answer to it.
        termios.tcflush(stdin, termios.TCIFLUSH)
    deadline = time.monotonic() + limit_s
    while (left_s := deadline - time.monotonic()) > 0:
        if not select.select([stdin], [], [], left_s)[0]:
            continue
        try:
            typed = os.read(stdin, 4096)
        except OSError:
            return False
        if not typed or b"\n" in typed:
            return bool(typed)
    return False


def _run_all(several: tuple[Command, ...]) -> None:
    for command in several:
        commands.run(command)


def _read(how: Tool) -> Loaded | None:
    answers = {}
    for name, question in how.questions.items():
        done = commands.ended(Command(question.argv))
        if done.returncode != 0 and not question.may_fail:
            raise commands.failed(question.argv, done)
        answers[name] = done.stdout if done.returncode == 0 else ""
    return how.read(answers)


def _record(home: Path) -> Record | None:
    path = record_path(home)
    with acting_as_owner(home):
        if not os.path.lexists(path):  # a link is there, whatever it leads to: `read_private` refuses it
            return None
        content = read_private(path)
    try:
        return msgspec.json.decode(content, type=Record)
    except msgspec.DecodeError as error:
        raise RpcmeshError(f"{str(path)!r} is not what `rpcmesh firewall apply` wrote", hint=f"rm {path}") from error


def _write(home: Path, record: Record | None) -> None:
    with acting_as_owner(home):
        if record is None:
            record_path(home).unlink(missing_ok=True)
        else:
            write_private(record_path(home), msgspec.json.encode(record))


@contextlib.contextmanager
def _named(failure: str) -> Iterator[None]:
    try:
        yield
    except RpcmeshError as error:
        raise RpcmeshError(f"{failure}: {error.message}", hint="rpcmesh firewall remove, or apply again") from error
