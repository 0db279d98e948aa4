"""What a worker is started with on each platform, and what is made of the launcher's line."""

from __future__ import annotations

import itertools
from pathlib import Path

import msgspec
import pytest

from rpcmesh.config import Backend
from rpcmesh.native_build import Build
from rpcmesh.node import sandbox
from rpcmesh.node.sandbox import Account, Walls
from rpcmesh.node.status import SandboxStatus

BUILD = Build(dir=Path("/cache/b"), build_id="b1", backend="cpu")
FOLDER = Path("/home/run/w0")
ON_LINUX = Walls(asked="auto", platform="linux", backend="cpu", memory_mib=1000, threads=4)
ARGUMENTS = ("-p", "1")
LINE = (
    '{"event":"worker_confined","level":"info","uid":65534,"landlock":7,"call_filter":1,'
    '"limits":{"core_mib":0,"files":64},"missing":[]}'
)


def command(**changes: object) -> tuple[str, ...]:
    return sandbox.command(msgspec.structs.replace(ON_LINUX, **changes), BUILD, FOLDER, "w0.sock", ARGUMENTS)


def values(argv: tuple[str, ...], option: str) -> list[str]:
    return [value for name, value in itertools.pairwise(argv) if name == option]


def test_on_linux_the_worker_gets_paths_that_need_no_walking() -> None:
    argv = command()
    assert argv[:5] == ("/cache/b/bin/rpcmesh-confine", "--scratch", "/home/run/w0", "--build", "/cache/b/bin")
    at = argv.index("--")
    assert argv[at + 1 :] == ("/proc/self/fd/4/ggml-rpc-server", "-H", "/proc/self/fd/3/w0.sock", *ARGUMENTS)
    assert "--require" not in argv
    assert "--user" not in argv


def test_what_is_required_is_said_to_the_launcher() -> None:
    assert "--require" in command(asked="required")
    assert "--require" in command(asked="required", platform="darwin")


def test_without_a_sandbox_it_is_the_worker_itself() -> None:
    expected = ("/cache/b/bin/ggml-rpc-server", "-H", "/home/run/w0/w0.sock", *ARGUMENTS)
    assert command(asked="off", account=Account(1, 1)) == expected


def test_whom_it_becomes() -> None:
    argv = command(account=Account(65534, 65533, (44, 45)))
    assert values(argv, "--user") == ["65534:65533"]
    assert values(argv, "--group") == ["44", "45"]


def test_the_cpus_worker_is_limited_in_memory_and_writes_no_file() -> None:
    argv = command()
    assert values(argv, "--memory-mib") == [str(2 * 1000 + 1024 + 4 * 136)]
    assert (values(argv, "--files"), values(argv, "--file-mib")) == (["64"], ["0"])
    assert values(argv, "--device") == values(argv, "--write") == []


@pytest.mark.parametrize("backend", ["cuda", "vulkan"])
def test_a_worker_on_cards_is_not_limited_in_address_space(backend: Backend) -> None:
    """A driver reserves all that a card could ever hold."""
    argv = command(backend=backend, devices=("/dev/null", "/dev/nvidia0"))
    assert values(argv, "--memory-mib") == values(argv, "--file-mib") == []
    assert values(argv, "--device") == ["/dev/null", "/dev/nvidia0"]
    assert values(argv, "--write") == ["/proc/self/task"]
    assert "/proc/self/maps" in values(argv, "--read")


@pytest.mark.parametrize("backend", sandbox.NEEDS)
def test_nothing_that_may_be_read_holds_a_secret(backend: Backend) -> None:
    """Libraries and the machine's description: no home, no /etc, no /proc, no /dev as a whole."""
    read = values(command(backend=backend), "--read")
    assert not {"/", "/etc", "/proc", "/proc/self", "/sys", "/dev", "/usr", "/usr/local"} & set(read)
    assert not [path for path in read if path.startswith(("/home", "/root", "/var", "/run"))]


def test_on_macos_sandbox_exec_has_the_last_word() -> None:
    argv = command(platform="darwin", backend="metal")
    at = argv.index("--")
    assert argv[at + 1] == "/usr/bin/sandbox-exec"
    assert argv[-5:] == ("/cache/b/bin/ggml-rpc-server", "-H", "/home/run/w0/w0.sock", *ARGUMENTS)
    assert values(argv, "--read") == []


@pytest.mark.parametrize("noise", [(), ("{", "{}", "[1]", '{"event":"other"}', "Devices:")])
def test_what_the_launcher_said_is_what_is_in_force(noise: tuple[str, ...]) -> None:
    assert sandbox.status(ON_LINUX, (*noise, LINE)) == SandboxStatus(
        state="confined", landlock=7, call_filter=True, uid=65534, limits={"core_mib": 0, "files": 64}
    )


def test_what_is_missing_makes_it_partial() -> None:
    line = LINE.replace('"missing":[]', '"missing":["landlock: this kernel has none"]').replace(
        '"landlock":7', '"landlock":0'
    )
    walls = msgspec.structs.replace(ON_LINUX, missing=("user: nobody",))
    found = sandbox.status(walls, (line,))
    assert (found.state, found.landlock) == ("partial", 0)
    assert found.missing == ("user: nobody", "landlock: this kernel has none")


def test_the_first_line_counts() -> None:
    """A worker that was taken over can print what it likes, but not before it is confined."""
    assert sandbox.status(ON_LINUX, (LINE, LINE.replace("65534", "0"))).uid == 65534


def test_a_worker_that_has_not_said_anything_is_unknown() -> None:
    assert sandbox.status(ON_LINUX, ()).state == "unknown"
    assert sandbox.status(ON_LINUX, ("Starting RPC server v7.0.0",)).state == "unknown"


def test_no_sandbox_is_off_whatever_is_printed() -> None:
    assert sandbox.status(msgspec.structs.replace(ON_LINUX, asked="off"), (LINE,)) == SandboxStatus(state="off")


def test_macos_names_its_profile() -> None:
    found = sandbox.status(
        msgspec.structs.replace(ON_LINUX, platform="darwin"), (LINE.replace('"landlock":7', '"landlock":0'),)
    )
    assert (found.state, found.profile) == ("confined", "worker.sb")
