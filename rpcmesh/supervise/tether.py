"""The process between a supervisor and its child: when the supervisor goes, for whatever reason, so does the child.

Run as a script by :mod:`rpcmesh.supervise.child`, with ``-I -S`` and the standard library alone: a few MiB, some
milliseconds. Standard input is the lifeline: its other end closes with the supervisor's last breath, SIGKILL included,
on macOS as on Linux. What becomes of the child is written to the status descriptor, a line each:

    started PID | failed REASON
    exited CODE | killed SIGNAL
"""

import contextlib
import ctypes
import os
import select
import signal
import sys
import time

GRACE_S = 5.0
PR_SET_PDEATHSIG = 1


def main() -> None:
    status, not_given, argv = int(sys.argv[1]), sys.argv[2], sys.argv[3:]
    os.environ.pop(not_given, None)
    wake_read, wake_write = os.pipe()
    os.set_blocking(wake_write, False)
    signal.set_wakeup_fd(wake_write)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    # Signals for the whole session are the supervisor's to give.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    child, failure = _start(argv, status)
    _report(status, f"failed {failure}" if failure else f"started {child}")
    # The child holds copies of these no longer needed here: its output must end when it does.
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 1)
    os.dup2(null, 2)
    deadline: float | None = None
    while True:
        ended, code = os.waitpid(child, os.WNOHANG)
        if ended:
            break
        if deadline is None:
            timeout = None
        elif (timeout := deadline - time.monotonic()) <= 0:
            _signal_group(child, signal.SIGKILL)
            timeout = None
        watched = [wake_read] if deadline is not None else [wake_read, 0]
        readable, _, _ = select.select(watched, [], [], timeout)
        if wake_read in readable:
            os.read(wake_read, 512)
        if 0 in readable and not os.read(0, 512):
            _signal_group(child, signal.SIGTERM)
            deadline = time.monotonic() + GRACE_S
    # Whatever the child left behind in its group goes with it.
    _signal_group(child, signal.SIGKILL)
    verdict = f"killed {os.WTERMSIG(code)}" if os.WIFSIGNALED(code) else f"exited {os.WEXITSTATUS(code)}"
    _report(status, verdict)


def _start(argv: list[str], status: int) -> tuple[int, str]:
    """The child's pid, and why its program could not be run. Only once it runs does a signal reach it for certain."""
    tether = os.getpid()
    failure_read, failure_write = os.pipe()
    child = os.fork()
    if child:
        os.close(failure_write)
        with os.fdopen(failure_read, "r") as failure:
            return child, failure.read()
    try:
        os.setpgid(0, 0)
        os.close(status)
        null = os.open(os.devnull, os.O_RDONLY)
        os.dup2(null, 0)
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD):
            signal.signal(number, signal.SIG_DFL)
        # SIGPIPE stays ignored, as Python left it: no worker may die because a client did.
        if os.uname().sysname == "Linux":
            # Should the tether itself be killed, the kernel ends the child.
            ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() != tether:
                os._exit(0)
        os.execv(argv[0], argv)  # noqa: S606 (there is no shell)
    except OSError as error:
        os.write(failure_write, f"{argv[0]!r}: {error.strerror}".encode())
    os._exit(127)


def _signal_group(child: int, number: int) -> None:
    # macOS says EPERM for a group of zombies.
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child, number)


def _report(status: int, verdict: str) -> None:
    # The supervisor may be gone.
    with contextlib.suppress(BrokenPipeError):
        os.write(status, verdict.encode() + b"\n")


if __name__ == "__main__":
    main()
