"""What a worker that was taken over would try, tried from the inside: refused, though it can succeed elsewhere.

The probe stands in the worker's place, started by the same command. The same attempts are made without walls, so that
one that fails for another reason is noticed.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from confined_node import attempt, found_walls, node_home, outcomes, probe_in

from rpcmesh.native_build import Build
from rpcmesh.native_build.manifest import WORKER
from rpcmesh.node.sandbox import Account, Walls
from rpcmesh.paths import Home

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="on macOS the walls are a profile's")

AS_ROOT = os.geteuid() == 0
MEMORY_MIB = 256
FAR_TOO_MUCH_MIB = 64 * 1024

# What is tried, and what comes of it. {places} are filled in.
REFUSED = {
    # Nobody's secrets.
    "read:{home}/identity/key.pem": "EACCES",
    "list:{home}/identity": "EACCES",
    "read:{home}/config.toml": "EACCES",
    "read:/etc/passwd": "EACCES",
    "read:/proc/{parent}/environ": "EACCES",
    "read:/proc/{parent}/mem": "EACCES",
    # Nothing is written.
    "write:{build}/bin/libchanged": "EACCES",
    "create:{build}/bin/libggml-evil.so": "EACCES",
    "create:{elsewhere}/made": "EACCES",
    "create:{folder}/core": "EACCES",
    "symlink:{folder}/link": "EPERM",
    "chmod:{folder}": "EPERM",
    "chown:{folder}": "EPERM",
    "utime:{folder}": "EPERM",
    # No network, and no other process behind a socket.
    "tcp": "EPERM",
    "tcp6": "EPERM",
    "udp": "EPERM",
    "netlink": "EPERM",
    "datagram": "EPERM",
    "connect:{run}/agent.sock": "EPERM",
    # No other process at all.
    "fork": "EPERM",
    "run:/bin/sh": "EACCES",
    "ptrace:{parent}": "EPERM",
    "kill:{parent}": "EPERM",
    "tgkill:{parent}": "EPERM",
    "setpgid": "EPERM",
    "forget-the-tether": "EPERM",
    # No way to more rights.
    "keyctl": "EPERM",
    "userfaultfd": "EPERM",
    "io-uring": "EPERM",
    "bpf": "EPERM",
    "map-write-and-run": "EPERM",
    "map-write-then-run": "EPERM",
    "raise-core-limit": "EPERM",
    "open-many:100": "EMFILE",
    f"memory-mib:{FAR_TOO_MUCH_MIB}": "ENOMEM",
    "call-of-the-future": "ENOSYS",
    # Last: where it succeeds, it takes rights away.
    "unshare": "EPERM",
}
ALLOWED = (
    "listen:{folder}/w0.sock",
    "thread",
    "signal-itself",
    "map-write",
    "read:/proc/cpuinfo",
    "read:/proc/meminfo",
    "read:/proc/self/fd/4/" + WORKER,
    f"memory-mib:{2 * MEMORY_MIB}",
)
# Without walls these get as far as to be told what is wrong with them.
ELSEWHERE = {
    "call-of-the-future": "ENOSYS",
    "io-uring": "EFAULT",
    "bpf": "EINVAL",
    "read:/proc/{parent}/mem": "EIO",  # nothing lies at address 0
}
# And these need root.
ROOTS = {"raise-core-limit"}


class Inside:
    """What came of every attempt, by the words of the tables."""

    def __init__(self, places: dict[str, str], said: str) -> None:
        found = outcomes(said)
        self.of = {words: found.get(words.format(**places), "nothing") for words in (*REFUSED, *ALLOWED)}


@pytest.fixture(scope="module")
def home() -> Iterator[Home]:
    with node_home() as made:
        made.config.write_text("")
        with socket.socket(socket.AF_UNIX) as agent:
            agent.bind(str(made.run / "agent.sock"))
            agent.listen(8)
            yield made


@pytest.fixture(scope="module")
def probe(home: Home, build: Build) -> Build:
    probed = probe_in(home.root / "build", build)
    (probed.lib_dir / "libchanged").write_bytes(b"")
    return probed


def everybodys(home: Home) -> Path:
    folder = home.root / "tmp"
    folder.mkdir(exist_ok=True)
    folder.chmod(0o1777)
    return folder


def try_all(home: Home, probe: Build, walls: Walls, account: Account | None) -> Inside:
    places = {
        "home": str(home.root),
        "build": str(probe.dir),
        "run": str(home.run),
        "folder": str(home.worker_dir("w0")) if walls.asked == "off" else "/proc/self/fd/3",
        "parent": str(os.getpid()),
        # Where everybody may make files, as in /tmp.
        "elsewhere": str(everybodys(home)),
    }
    done = attempt(home, probe, walls, account, *(words.format(**places) for words in (*REFUSED, *ALLOWED)))
    assert done.returncode == 0, done.stdout + done.stderr
    return Inside(places, done.stdout)


@pytest.fixture(
    scope="module",
    params=[
        "own-user",
        pytest.param("nobody", marks=pytest.mark.skipif(not AS_ROOT, reason="only root can become nobody")),
    ],
)
def inside(request: pytest.FixtureRequest, home: Home, probe: Build) -> Inside:
    """As the user who started it, where the walls alone keep it in, and as nobody."""
    walls = found_walls(home, probe, "required", MEMORY_MIB)
    return try_all(home, probe, walls, walls.account if request.param == "nobody" else None)


@pytest.fixture(scope="module")
def outside(home: Home, probe: Build) -> Inside:
    return try_all(home, probe, found_walls(home, probe, "off"), None)


@pytest.mark.parametrize("what", REFUSED)
def test_a_worker_that_was_taken_over_is_refused(inside: Inside, what: str) -> None:
    assert inside.of[what] == REFUSED[what]


@pytest.mark.parametrize("what", ALLOWED)
def test_what_a_worker_needs_is_allowed(inside: Inside, what: str) -> None:
    assert inside.of[what] == "ok"


@pytest.mark.parametrize("what", [what for what in REFUSED if what not in ROOTS or AS_ROOT])
def test_without_walls_it_would_have_succeeded(outside: Inside, what: str) -> None:
    assert outside.of[what] == ELSEWHERE.get(what, "ok")


def test_a_call_of_another_abi_is_the_end_of_the_worker(home: Home, probe: Build) -> None:
    done = attempt(home, probe, found_walls(home, probe), None, "thread", "foreign-call", "thread")

    assert done.returncode == -signal.SIGSYS
    assert outcomes(done.stdout) == {"thread": "ok"}


def test_what_others_left_open_is_not_the_workers(home: Home, probe: Build) -> None:
    """A descriptor that was open when it was started leads nowhere any more."""
    with (home.identity / "key.pem").open("rb") as key:
        what = f"read:/proc/self/fd/{key.fileno()}"
        done = attempt(home, probe, found_walls(home, probe), None, what, inherits=(key.fileno(),))

    assert outcomes(done.stdout) == {what: "ENOENT"}


@pytest.mark.skipif(not AS_ROOT, reason="only root can become nobody")
def test_nobody_cannot_become_root_again(home: Home, probe: Build) -> None:
    walls = msgspec.structs.replace(found_walls(home, probe), asked="auto")
    assert walls.account is not None
    done = attempt(home, probe, walls, walls.account, "setuid:0")

    assert outcomes(done.stdout) == {"setuid:0": "EPERM"}
