"""The service's unit forbids system calls too. What it leaves is enough for a worker to be confined within it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from confined_node import UNDER_FILTER, attempt, found_walls, node_home, outcomes, probe_in

from rpcmesh.native_build import Build, requirements

UNIT = Path(__file__).parents[1] / "golden" / "service" / "rpcmesh-node.service"
AN_ORDINARY_USER = 65534
pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="units are Linux's"),
    pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze says what its groups hold"),
]


def group(name: str) -> set[str]:
    """The calls in one of systemd's groups, and in those that it names."""
    command = ["systemd-analyze", "--no-pager", "syscall-filter", name]
    listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[1:]
    words = [line.split()[0] for line in listed if line.strip() and not line.strip().startswith("#")]
    return {call for word in words for call in (group(word) if word.startswith("@") else {word})}


def calls_of_the_unit() -> set[str]:
    """As systemd reads the lines: the first makes the list, each further adds to it or takes away."""
    allowed: set[str] = set()
    for line in re.findall(r"^SystemCallFilter=(.*)$", UNIT.read_text(), re.MULTILINE):
        taken_away = line.startswith("~")
        words = line.removeprefix("~").split()
        calls = {call for word in words for call in (group(word) if word.startswith("@") else {word})}
        allowed = allowed - calls if taken_away else allowed | calls
    return allowed


def numbers(calls: set[str]) -> list[int]:
    """Of those that this machine's kernel has, by its headers."""
    command = [requirements.compiler() or "c++", "-x", "c++", "-E", "-dM", "-"]
    headers = subprocess.run(
        command, input="#include <asm/unistd.h>", capture_output=True, text=True, check=True
    ).stdout
    defined = dict(re.findall(r"^#define __NR_(\w+) (\d+)$", headers, re.MULTILINE))
    return sorted(int(defined[call]) for call in calls if call in defined)


@pytest.fixture
def probe(build: Build, tmp_path: Path) -> Build:
    """Where an ordinary user finds it."""
    made = probe_in(tmp_path / "build", build)
    for folder in (tmp_path, made.dir, made.lib_dir):
        folder.chmod(0o755)
    return made


def test_the_units_filter_lets_a_worker_give_up_all_rights(probe: Build, tmp_path: Path) -> None:
    uid = os.getuid() or AN_ORDINARY_USER
    calls = numbers(calls_of_the_unit())
    with node_home() as home:
        walls = msgspec.structs.replace(found_walls(home, probe, "required"), account=None)
        folder = tmp_path / "w0"
        folder.mkdir(mode=0o700)
        os.chown(folder, uid, uid)
        words = f"only:{uid}:{','.join(map(str, calls))}"
        tried = ("listen:/proc/self/fd/3/w0.sock", "thread", "read:/etc/passwd", "tcp", "fork")
        done = attempt(home, probe, walls, None, *tried, prefix=(*UNDER_FILTER, words), folder=folder)

    assert '"event":"worker_confined","level":"info"' in done.stdout, done.stdout + done.stderr
    assert list(outcomes(done.stdout).values()) == ["ok", "ok", "EACCES", "EPERM", "EPERM"]
