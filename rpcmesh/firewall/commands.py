"""Runs a firewall tool to its end, with nothing of our surroundings. What it says on failure becomes one line."""

from __future__ import annotations

import shutil
import subprocess

from rpcmesh.errors import RpcmeshError
from rpcmesh.firewall.loaded import Argv, Command

# Both tools lie in sbin, which an ordinary user's PATH often lacks.
TOOL_PATH = "/usr/sbin:/sbin:/usr/bin:/bin"
TOOL_LIMIT_S = 30.0


def run(command: Command) -> subprocess.CompletedProcess[str]:
    """Raises :class:`RpcmeshError` when the tool fails."""
    done = ended(command)
    if done.returncode != 0:
        raise failed(command.argv, done)
    return done


def output(argv: Argv) -> str:
    """Both outputs together: ``pfctl`` prints its answers now on the one, now on the other."""
    done = run(Command(argv))
    return f"{done.stdout}\n{done.stderr}"


def complaint(check_only: Command) -> str:
    """What the tool says of rules that it does not accept, in one line; empty when it accepts them."""
    done = ended(check_only)
    return _said(done) if done.returncode != 0 else ""


def ended(command: Command) -> subprocess.CompletedProcess[str]:
    """The ended tool, whatever its exit status. Raises :class:`RpcmeshError` when it is not there or does not end."""
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


def failed(argv: Argv, done: subprocess.CompletedProcess[str]) -> RpcmeshError:
    return RpcmeshError(f"{' '.join(argv)!r} failed: {_said(done)}", hint="rpcmesh firewall check")


def _said(done: subprocess.CompletedProcess[str]) -> str:
    return (done.stderr.strip() or f"exit status {done.returncode}").splitlines()[0]
