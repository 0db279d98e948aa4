"""Loads the rules, reads them back and takes them away. Whatever goes wrong on the way, the former rules come back."""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType

import msgspec

from rpcmesh.errors import RpcmeshError
from rpcmesh.firewall.loaded import (
    AS_MEANT,
    TOOLS,
    Argv,
    Backend,
    Command,
    Loaded,
    Record,
    Verdict,
    digest,
    judge,
    pf_holds,
    pf_token,
)
from rpcmesh.pki.files import read_private, write_private

# Both tools lie in sbin, which an ordinary user's PATH often lacks.
TOOL_PATH = "/usr/sbin:/sbin:/usr/bin:/bin"
TOOL_LIMIT_S = 30.0
_ENDINGS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
# Ctrl-Z, and a question to the terminal from the background: a process that is stopped brings no rules back.
_STOPS = (signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU)


def record_path(home: Path) -> Path:
    return home / "firewall.json"


def apply(backend: Backend, home: Path, rules: str, confirmed: Callable[[], bool] = lambda: True) -> None:
    """Load ``rules`` in one step, and keep them if ``confirmed`` says so.

    Else, on any error and on SIGINT, SIGTERM or SIGHUP, the rules, the record and pf's reference are again what they
    were. Raises :class:`RpcmeshError` then.
    """
    tool = TOOLS[backend]
    former, former_record = _read(backend), _record(home)
    way_back = tool.restore(former)
    if former is not None:
        # Before anything changes: rules that somebody wrote by hand must be ones that can be brought back.
        _run(tool.check(way_back.stdin))
    token = former_record.token if former_record else ""
    new_token = ""
    with _ending_by_exception():
        try:
            _run(tool.load(rules))
            if tool.enable and not pf_holds(token, _output(tool.holders)):
                token = new_token = pf_token(_output(tool.enable))
            found = _read(backend)
            record = Record(backend, digest(rules), found.text if found else "", token)
            _write(home, record)
            verdict = judge(found, record, rules)
            if verdict != AS_MEANT:
                raise RpcmeshError(verdict.problem, hint="the former rules are back: rpcmesh firewall check")
            if not confirmed():
                raise RpcmeshError("no answer: the former rules are back", hint="rpcmesh firewall apply")
        except BaseException as error:
            with _undisturbed(), _named("the former rules could not be brought back"):
                _run(way_back)
                if new_token:
                    _run(Command((*tool.release, new_token)))
                _write(home, former_record)
            if isinstance(error, KeyboardInterrupt):
                raise RpcmeshError("interrupted: the former rules are back") from error
            raise


def verify(backend: Backend, home: Path, rules: str) -> Verdict:
    """What is loaded, against ``rules`` and against what ``apply`` left."""
    return judge(_read(backend), _record(home), rules)


def remove(backend: Backend, home: Path) -> bool:
    """Take the rules and the record away. False when there were none of either."""
    tool = TOOLS[backend]
    found, record = _read(backend), _record(home)
    with _undisturbed():
        if found is not None:
            _run(tool.restore(None))
        if record is not None and pf_holds(record.token, _output(tool.holders) if tool.holders else ""):
            _run(Command((*tool.release, record.token)))
        _write(home, None)
    return found is not None or record is not None


def complaint(check_only: Command) -> str:
    """What the tool says of rules that it does not accept, in one line; empty when it accepts them."""
    done = _ended(check_only)
    return _said(done) if done.returncode != 0 else ""


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


def _read(backend: Backend) -> Loaded | None:
    tool = TOOLS[backend]
    answers = {}
    for name, question in tool.questions.items():
        done = _ended(Command(question.argv))
        if done.returncode != 0 and not question.may_fail:
            raise _failed(question.argv, done)
        answers[name] = done.stdout if done.returncode == 0 else ""
    return tool.read(answers)


def _record(home: Path) -> Record | None:
    path = record_path(home)
    if not path.exists():
        return None
    try:
        return msgspec.json.decode(read_private(path), type=Record)
    except msgspec.DecodeError as error:
        raise RpcmeshError(f"{str(path)!r} is not what `rpcmesh firewall apply` wrote", hint=f"rm {path}") from error


def _write(home: Path, record: Record | None) -> None:
    if record is None:
        record_path(home).unlink(missing_ok=True)
    else:
        write_private(record_path(home), msgspec.json.encode(record))


def _output(argv: Argv) -> str:
    """Both outputs together: ``pfctl`` prints its answers now on the one, now on the other."""
    done = _run(Command(argv))
    return f"{done.stdout}\n{done.stderr}"


def _run(command: Command) -> subprocess.CompletedProcess[str]:
    done = _ended(command)
    if done.returncode != 0:
        raise _failed(command.argv, done)
    return done


def _ended(command: Command) -> subprocess.CompletedProcess[str]:
    name, *arguments = command.argv
    tool = shutil.which(name, path=TOOL_PATH)
    if tool is None:
        raise RpcmeshError(f"{name} is not on this machine")
    try:
        # A session of its own: Ctrl-C is for us, who then load the former rules, and not for a tool underway.
        return subprocess.run(
            [tool, *arguments],
            input=command.stdin,
            capture_output=True,
            text=True,
            timeout=TOOL_LIMIT_S,
            check=False,
            start_new_session=True,
            env={"PATH": TOOL_PATH, "LC_ALL": "C"},
        )
    except subprocess.TimeoutExpired as error:
        raise RpcmeshError(f"{name} does not end: {TOOL_LIMIT_S:g} s are over") from error


def _failed(argv: Argv, done: subprocess.CompletedProcess[str]) -> RpcmeshError:
    return RpcmeshError(f"{' '.join(argv)!r} failed: {_said(done)}", hint="rpcmesh firewall check")


def _said(done: subprocess.CompletedProcess[str]) -> str:
    return (done.stderr.strip() or f"exit status {done.returncode}").splitlines()[0]


@contextlib.contextmanager
def _named(failure: str) -> Iterator[None]:
    try:
        yield
    except RpcmeshError as error:
        raise RpcmeshError(f"{failure}: {error.message}", hint="rpcmesh firewall remove, or apply again") from error


@contextlib.contextmanager
def _ending_by_exception() -> Iterator[None]:
    """SIGINT, SIGTERM and SIGHUP raise :class:`KeyboardInterrupt`; one that nohup ignores stays so. None stops us."""
    with _handling(_STOPS, signal.SIG_IGN), _handling(_ENDINGS, _end_once):
        yield


def _end_once(number: int, frame: FrameType | None) -> None:
    # An admin who types Ctrl-C twice must not stop the way back.
    for one in _ENDINGS:
        signal.signal(one, signal.SIG_IGN)
    raise KeyboardInterrupt


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    with _handling(_ENDINGS, signal.SIG_IGN):
        yield


@contextlib.contextmanager
def _handling(
    signals: tuple[signal.Signals, ...], handler: Callable[[int, FrameType | None], None] | signal.Handlers
) -> Iterator[None]:
    former = {one: signal.getsignal(one) for one in signals}
    try:
        for one, was in former.items():
            if was is not signal.SIG_IGN:
                signal.signal(one, handler)
        yield
    finally:
        for one, was in former.items():
            signal.signal(one, was)
