"""A Debian of our own: made once by mmdebstrap, copied, booted in namespaces, and gone when its init is killed.

Packages come from wherever this machine's own apt and pip have theirs. Nothing here knows rpcmesh's services.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import psutil
import pytest

# What a Debian has that somebody installed on a machine, and the smallest one lacks.
USUAL = ("systemd", "systemd-sysv", "dbus", "sudo", "iproute2")
PROGRAMS = {
    "mmdebstrap": "mmdebstrap",
    "ip": "iproute2",
    "unshare": "util-linux",
    "nsenter": "util-linux",
    "setpriv": "util-linux",
}
# The longest compiles llama.cpp: about two minutes on two cores.
COMMAND_LIMIT_S = 600.0
BOOT_LIMIT_S = 90.0
ENVIRONMENT = ("PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "LANG=C.UTF-8")
T = TypeVar("T")

# Runs as process 1 of the new namespaces. The kernel is the host's too: its settings, modules and clock are left alone.
BOOT = r"""
set -eu
cd "$1"
mount --bind . .
cd "$1"
mount -t proc proc proc
for kernel in proc/sys proc/sysrq-trigger; do
    test ! -e $kernel || { mount --bind $kernel $kernel; mount -o remount,bind,ro $kernel; }
done
mount -t sysfs -o ro sysfs sys
mount -t cgroup2 cgroup2 sys/fs/cgroup
mount -t tmpfs -o mode=755 tmpfs run
mount -t tmpfs -o mode=755 tmpfs dev
mkdir dev/pts dev/shm
mount -t devpts -o newinstance,ptmxmode=666 devpts dev/pts
mount -t tmpfs -o mode=1777 tmpfs dev/shm
for node in null zero full random urandom tty; do touch "dev/$node"; mount --bind "/dev/$node" "dev/$node"; done
ln -s pts/ptmx dev/ptmx
ln -s /proc/self/fd dev/fd
ln -s /proc/self/fd/0 dev/stdin
ln -s /proc/self/fd/1 dev/stdout
ln -s /proc/self/fd/2 dev/stderr
pivot_root . .
umount -l .
cd /
exec setpriv --bounding-set=-sys_module,-sys_time env -i container=rpcmesh-test /sbin/init
"""


class Debian:
    """A booted one. ``files`` is its root directory as this machine sees it, ``init`` its process 1."""

    def __init__(self, files: Path, init: psutil.Process) -> None:
        self.files = files
        self.init = init

    def run(self, command: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        """``command`` in a shell of root's, to its end, whatever that is."""
        spaces = ("--mount", "--pid", "--net", "--uts", "--ipc", "--cgroup")
        there = ("nsenter", "--target", str(self.init.pid), *spaces, "env", "-i", *ENVIRONMENT)
        return subprocess.run(
            [*there, "sh", "-c", command],
            input=stdin,
            capture_output=True,
            text=True,
            timeout=COMMAND_LIMIT_S,
            check=False,
        )

    def must(self, command: str, stdin: str = "") -> str:
        """The standard output of ``command``, which succeeds."""
        ended = self.run(command, stdin)
        assert ended.returncode == 0, f"{command!r} failed\n{ended.stdout}{ended.stderr}\n{self.journal()}"
        return ended.stdout

    def until(self, look: Callable[[], T | None], what: str, limit_s: float) -> T:
        """Look until there is something, or fail with what the services wrote meanwhile."""
        deadline = time.monotonic() + limit_s
        while (found := look()) is None:
            assert time.monotonic() < deadline, f"{what} did not come within {limit_s:.0f} s\n{self.journal()}"
            time.sleep(0.2)
        return found

    def journal(self) -> str:
        return self.run("systemctl --no-pager --failed; journalctl --no-pager --lines 80").stdout

    def processes_of(self, user_id: int) -> list[str]:
        """Command lines of all processes in there that run as ``user_id``."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.NoSuchProcess, OSError):
                if user_id in process.uids() and _pid_namespace(process) == _pid_namespace(self.init):
                    found.append(" ".join(process.cmdline()) or process.name())
        return found


@contextlib.contextmanager
def booted(base: Path) -> Iterator[Debian]:
    """A copy of ``base`` under its own systemd, with no network but its loopback. Skips where that cannot be had."""
    scratch = Path(tempfile.mkdtemp(prefix="rm-", dir="/tmp"))
    try:
        _said("cp", "--archive", "--reflink=auto", str(base), str(scratch / "root"))
        (scratch / "root" / "etc" / "hostname").write_text("debian\n")
        (scratch / "root" / "etc" / "hosts").write_text("127.0.0.1 localhost debian\n")
        with _control_group() as group, _init(scratch, group) as init:
            debian = Debian(scratch / "root", init)
            debian.until(lambda: _is_up(debian), "a booted system", BOOT_LIMIT_S)
            yield debian
    finally:
        shutil.rmtree(scratch)


def connect(one: tuple[Debian, str], other: tuple[Debian, str]) -> None:
    """Lay a cable between two, and give each its address, in a network of 256."""
    (here, _), (there, _) = one, other
    # By this machine's tools, which know both first processes by number.
    into = ("nsenter", "--target", str(here.init.pid), "--net", "ip", "link", "add", "eth0")
    _said(*into, "type", "veth", "peer", "name", "eth0", "netns", str(there.init.pid))
    for debian, address in (one, other):
        debian.must(f"ip address add {address}/24 dev eth0 && ip link set eth0 up")


def base(cache: Path, packages: Sequence[str]) -> Path:
    """A clean root of this machine's own release and ``packages``, made on first use. Skips where none can be."""
    _require()
    release = platform.freedesktop_os_release().get("VERSION_CODENAME", "")
    finished = cache / "roots" / _key(release, platform.machine(), *USUAL, *packages)
    if not finished.is_dir():
        with _unfinished(finished) as scratch:
            (scratch / "sources.list").write_text(_sources(release))
            (scratch / "apt.conf").write_text(_said("apt-config", "dump", "--format", '%F "%v";%n', "Acquire::http"))
            made = subprocess.run(
                [
                    *("mmdebstrap", "--mode=root", "--variant=minbase", "--format=directory", "--quiet"),
                    *(f"--include={','.join((*USUAL, *packages))}", f"--aptopt={scratch / 'apt.conf'}"),
                    *(release, str(scratch / "whole"), str(scratch / "sources.list")),
                ],
                capture_output=True,
                text=True,
                timeout=COMMAND_LIMIT_S,
                check=False,
            )
            if made.returncode != 0:
                pytest.skip(f"no Debian root can be made here: {made.stderr.strip()[-400:]}")
    return finished


def wheels(cache: Path, python: str, constraints: Path, names: Sequence[str]) -> Path:
    """A folder of wheels of ``names`` and all they need for ``python`` (``3.11``), by this machine's pip settings."""
    finished = cache / "wheels" / _key(python, platform.machine(), constraints.read_text(), *names)
    if not finished.is_dir():
        with _unfinished(finished) as scratch:
            choice = ("--only-binary=:all:", "--python-version", python, "--constraint", str(constraints))
            pip = (sys.executable, "-m", "pip", "download", "-qq", "--dest", str(scratch / "whole"))
            subprocess.run([*pip, *choice, *names], check=True, timeout=COMMAND_LIMIT_S)
    return finished


def _key(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def _require() -> None:
    if not sys.platform.startswith("linux") or os.getuid() != 0:
        pytest.skip("booting a Debian root needs Linux and root")
    for program, package in PROGRAMS.items():
        if shutil.which(program) is None:
            pytest.skip(f"booting a Debian root needs {program} (Debian: apt-get install {package})")


def _sources(release: str) -> str:
    """The lines of this machine's apt sources that are about ``release``, its updates and its security."""
    lines = _said("apt-get", "indextargets", "--format", "$(RELEASE) $(REPO_URI) $(COMPONENT)", "Created-By: Packages")
    wanted = [line.split() for line in dict.fromkeys(lines.splitlines()) if line.startswith(release)]
    if not wanted:
        pytest.skip(f"apt has no source for this machine's release, {release!r}")
    return "".join(f"deb {uri} {suite} {component}\n" for suite, uri, component in wanted)


def _said(*argv: str) -> str:
    return subprocess.run(argv, capture_output=True, text=True, check=True).stdout


@contextlib.contextmanager
def _unfinished(finished: Path) -> Iterator[Path]:
    """A folder in which ``whole`` is made; it takes its name at the end, so what has that name is always whole."""
    finished.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(dir=finished.parent, prefix=".unfinished-"))
    try:
        yield scratch
        (scratch / "whole").rename(finished)
    except OSError:
        # Somebody else made the same at the same time, and was first.
        if not finished.is_dir():
            raise
    finally:
        shutil.rmtree(scratch)


@contextlib.contextmanager
def _control_group() -> Iterator[Path]:
    """A group below our own for everything in there: systemd keeps track of its services by groups."""
    mounts = [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]
    top = next((Path(mount[1]) for mount in mounts if mount[2] == "cgroup2"), None)
    if top is None:
        pytest.skip("systemd needs control groups, version 2, and none are mounted here")
    lines = Path("/proc/self/cgroup").read_text().splitlines()
    ours = next(line.removeprefix("0::/") for line in lines if line.startswith("0::"))
    group = top / ours / f"rm-{uuid.uuid4().hex[:8]}"
    try:
        group.mkdir()
    except OSError as error:
        pytest.skip(f"no control group can be made here: {error}")
    try:
        yield group
    finally:
        for folder in sorted((path for path in group.rglob("*") if path.is_dir()), reverse=True):
            folder.rmdir()
        group.rmdir()


@contextlib.contextmanager
def _init(scratch: Path, group: Path) -> Iterator[psutil.Process]:
    """Process 1 of the new namespaces. The kernel kills all the others with it, and their mounts go with the last."""
    # Whoever kills us kills unshare, and that kills process 1.
    spaces = ("--mount", "--pid", "--net", "--uts", "--ipc", "--cgroup", "--fork", "--kill-child")
    enter = f'echo $$ >"$2/cgroup.procs"; exec unshare {" ".join(spaces)} sh -c "$3" boot "$1"'
    shell = ("setpriv", "--pdeathsig", "KILL", "sh", "-euc", enter, "enter")
    console = scratch / "console"
    with console.open("w") as out:
        unshare = subprocess.Popen(
            [*shell, str(scratch / "root"), str(group), BOOT], stdin=subprocess.DEVNULL, stdout=out, stderr=out
        )
    try:
        yield _first_process(unshare, console)
    finally:
        children = psutil.Process(unshare.pid).children() if unshare.poll() is None else []
        for child in children:
            child.kill()
        # Process 1 is gone when all the others are.
        psutil.wait_procs(children, timeout=60)
        unshare.kill()
        unshare.wait()


def _first_process(unshare: subprocess.Popen[bytes], console: Path) -> psutil.Process:
    deadline = time.monotonic() + BOOT_LIMIT_S
    while True:
        if unshare.poll() is not None or time.monotonic() > deadline:
            pytest.skip(f"no system can be booted here: {console.read_text().strip()[-400:]}")
        for child in psutil.Process(unshare.pid).children():
            with contextlib.suppress(psutil.NoSuchProcess):
                if child.name() == "systemd":
                    return child
        time.sleep(0.05)


def _is_up(debian: Debian) -> bool | None:
    return True if debian.run("systemctl is-system-running").stdout.strip() in {"running", "degraded"} else None


def _pid_namespace(process: psutil.Process) -> Path:
    return Path(f"/proc/{process.pid}/ns/pid").readlink()
