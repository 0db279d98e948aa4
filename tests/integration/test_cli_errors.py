"""Bad input at the command line: one line that says what is wrong, a hint, exit status 1, and nothing lost."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from whole_mesh import run_cli, short_home

from rpcmesh.paths import Home

MOUNT, UMOUNT = shutil.which("mount"), shutil.which("umount")


@pytest.fixture
def home() -> Iterator[Home]:
    with short_home() as made:
        yield made


@pytest.fixture
def mesh_home(home: Home, free_port: int) -> Home:
    assert run_cli(home, "init", "--name", "lab", "--listen", f"127.0.0.1:{free_port}").returncode == 0
    return home


def assert_refused(done: subprocess.CompletedProcess[str], *said: str) -> None:
    assert done.returncode == 1, (done.stdout, done.stderr)
    lines = done.stderr.strip().splitlines()
    assert [line.partition(":")[0] for line in lines[-2:]] == ["error", "hint"], done.stderr
    assert "Traceback" not in done.stderr
    for words in said:
        assert words in done.stderr


def test_serve_on_a_busy_port(mesh_home: Home, build: object) -> None:
    port = int(mesh_home.config.read_text().split('listen = "127.0.0.1:')[1].split('"')[0])
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", port))
        taken.listen()
        assert_refused(run_cli(mesh_home, "serve"), str(port), "in use")


def test_node_run_on_a_busy_port(mesh_home: Home, build: object) -> None:
    """The coordinator's own identity serves as a node's here: the port is asked for before anything else."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        assert_refused(run_cli(mesh_home, "node", "run", RPCMESH_NODE_LISTEN=address), address.split(":")[1], "in use")


def test_init_twice(mesh_home: Home) -> None:
    before = (mesh_home.authority / "ca.pem").read_bytes()
    assert_refused(run_cli(mesh_home, "init"), "already holds a mesh")
    assert (mesh_home.authority / "ca.pem").read_bytes() == before


def test_an_address_that_is_not_this_machines(home: Home) -> None:
    assert_refused(
        run_cli(home, "init", "--listen", "203.0.113.7:8443"), "203.0.113.7", "not an address of this machine"
    )


@pytest.mark.parametrize("verb", [("serve",), ("token", "create"), ("key", "create"), ("key", "ls")])
def test_a_verb_of_the_coordinator_where_there_is_no_mesh(home: Home, verb: tuple[str, ...]) -> None:
    assert_refused(run_cli(home, *verb), "holds no mesh", "rpcmesh init")


def test_node_run_before_join(home: Home, build: object) -> None:
    assert_refused(run_cli(home, "node", "run"), "rpcmesh join")


@pytest.mark.parametrize("verb", [("status",), ("node", "ls"), ("connect", "node-1"), ("chat", "hello")])
def test_a_verb_that_needs_a_running_coordinator(mesh_home: Home, build: object, verb: tuple[str, ...]) -> None:
    assert_refused(run_cli(mesh_home, *verb), "no coordinator answers", "rpcmesh serve")


def test_a_state_directory_that_others_can_enter(mesh_home: Home, build: object) -> None:
    mesh_home.root.chmod(0o755)
    assert_refused(run_cli(mesh_home, "serve"), "0755", f"chmod 700 {mesh_home.root}")


def test_a_key_file_that_others_can_read(mesh_home: Home, build: object) -> None:
    (mesh_home.identity / "key.pem").chmod(0o644)
    assert_refused(run_cli(mesh_home, "serve"), "key.pem", "chmod 600")


@pytest.mark.parametrize("string", ["", "nonsense", "rpcmesh-join:AAAA"])
def test_a_damaged_join_string(home: Home, build: object, string: str) -> None:
    assert_refused(run_cli(home, "join", "-", "--listen", "127.0.0.1:7443", stdin=string), "join string")
    assert not home.config.exists()


def test_a_join_string_whose_coordinator_is_not_there(mesh_home: Home, build: object) -> None:
    string = run_cli(mesh_home, "token", "create", "--node", "node-1").stdout.split()[0]
    with short_home() as node:
        refused = run_cli(node, "join", "-", "--listen", "127.0.0.1:7443", stdin=string)
        assert_refused(refused, "cannot reach the coordinator", "rpcmesh serve")
        assert string not in refused.stderr


def test_a_setting_that_does_not_exist(mesh_home: Home) -> None:
    mesh_home.config.write_text(mesh_home.config.read_text() + "\n[engine]\nn_cxt = 4096\n")
    assert_refused(run_cli(mesh_home, "serve"), "n_cxt", str(mesh_home.config))


def test_a_setting_of_the_wrong_type_from_the_environment(mesh_home: Home) -> None:
    assert_refused(run_cli(mesh_home, "serve", RPCMESH_ENGINE_N_CTX="many"), "RPCMESH_ENGINE_N_CTX")


def test_a_model_that_nobody_added(mesh_home: Home, build: object) -> None:
    assert_refused(run_cli(mesh_home, "serve", "--model", "nosuch"), "nosuch", "rpcmesh model")


@pytest.mark.parametrize(("content", "said"), [(b"PK\x03\x04 not a model", "not a GGUF"), (b"", "not a GGUF")])
def test_a_file_that_is_no_model(home: Home, tmp_path: Path, content: bytes, said: str) -> None:
    (tmp_path / "model.gguf").write_bytes(content)
    assert_refused(run_cli(home, "model", "add", str(tmp_path / "model.gguf")), said)
    assert run_cli(home, "model", "ls", "--json").stdout == "[]\n"


def test_a_truncated_model(home: Home, tmp_path: Path, smollm2: Path) -> None:
    with smollm2.open("rb") as whole:
        (tmp_path / "half.gguf").write_bytes(whole.read(40_000_000))
    assert_refused(run_cli(home, "model", "add", str(tmp_path / "half.gguf")), "cut off or damaged")


def test_a_missing_model(home: Home, tmp_path: Path) -> None:
    assert_refused(run_cli(home, "model", "add", str(tmp_path / "absent.gguf")), "absent.gguf", "No such file")


def test_a_tampered_binary_is_not_started(mesh_home: Home, build: object, tmp_path: Path) -> None:
    built = run_cli(mesh_home, "build", "--json").stdout.split('"dir": "')[1].split('"')[0]
    cache = tmp_path / "cache"
    shutil.copytree(built, cache / "builds" / Path(built).name, symlinks=True)
    (cache / "source").symlink_to(Path(built).parent.parent / "source")
    with (cache / "builds" / Path(built).name / "bin" / "rpcmesh-tunnel").open("ab") as binary:
        binary.write(b"\0")

    assert_refused(run_cli(mesh_home, "serve", RPCMESH_CACHE=str(cache)), "rpcmesh-tunnel", "not what was built")


@pytest.fixture
def tiny_disk() -> Iterator[Path]:
    """Eight MiB of room."""
    if os.getuid() != 0 or MOUNT is None or UMOUNT is None:
        pytest.skip("mounting a small disk needs root and mount")
    place = Path(tempfile.mkdtemp(prefix="rm-disk-", dir="/tmp"))
    subprocess.run([MOUNT or "", "-t", "tmpfs", "-o", "size=8m", "tmpfs", place], check=True)
    try:
        yield place
    finally:
        subprocess.run([UMOUNT or "", place], check=True)
        place.rmdir()


@pytest.mark.parametrize("verb", [("build",), ("model", "pull", "smollm2-135m-instruct")])
def test_a_full_disk(home: Home, tiny_disk: Path, verb: tuple[str, ...]) -> None:
    assert_refused(run_cli(home, *verb, RPCMESH_CACHE=str(tiny_disk)), str(tiny_disk), "free")
    assert [path for path in tiny_disk.rglob("*") if path.is_file() and path.suffix != ".lock"] == []
