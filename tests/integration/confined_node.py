"""A node's home without a coordinator, and what is started in it as the node does. No test lives here."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import under_filter
from process_probe import LIMIT_S
from whole_mesh import short_home

from rpcmesh import config
from rpcmesh.native_build import Build, requirements
from rpcmesh.native_build.manifest import CONFINE, WORKER
from rpcmesh.node import sandbox, walls
from rpcmesh.node.sandbox import Account
from rpcmesh.paths import Home
from rpcmesh.pki import identity, names, signing_request
from rpcmesh.pki.authority import Authority
from rpcmesh.pki.revocation import Revocations

MESH, NODE = "m", "alpha"
PROBE = Path(__file__).with_name("confinement_probe.cpp")
UNDER_FILTER = (sys.executable, "-I", "-S", under_filter.__file__)
WITHOUT_LANDLOCK = (*UNDER_FILTER, f"refuse:444-446:{errno.ENOSYS}")


@contextlib.contextmanager
def node_home() -> Iterator[Home]:
    """With an identity, as after joining; and in :func:`coordinator_of` that of its coordinator."""
    with short_home() as home:
        authority = Authority.create(home.root / "authority", MESH, time.time())
        revoked = authority.sign_revocations(Revocations(1, time.time(), ()))
        for folder, uri in (
            (home.identity, names.node_uri(MESH, NODE)),
            (coordinator_of(home), names.coordinator_uri(MESH)),
        ):
            key_pem, csr = signing_request.new_key_and_csr()
            leaf = authority.sign_csr(csr, uri, time.time())
            identity.install(folder, key_pem, leaf.pem, authority.ca_pem, revoked)
        yield home


def coordinator_of(home: Home) -> Path:
    return home.root / "coordinator"


def probe_in(folder: Path, build: Build) -> Build:
    """A build in which the probe has the worker's place."""
    bin_dir = folder / "bin"
    bin_dir.mkdir(parents=True)
    compile_it = [requirements.compiler() or "c++", "-std=c++17", "-D_GNU_SOURCE", "-Wall", "-Wextra", "-Werror"]
    compile_it += [str(PROBE), "-o", str(bin_dir / WORKER), "-pthread"]
    subprocess.run(compile_it, check=True)
    shutil.copy2(build.confine, bin_dir / CONFINE)
    return msgspec.structs.replace(build, dir=folder)


def found_walls(home: Home, build: Build, asked: config.Sandbox = "auto", memory_mib: int = 1024) -> sandbox.Walls:
    return walls.find(home, build, config.Node(sandbox=asked, worker_threads=1), memory_mib)


def attempt(
    home: Home,
    build: Build,
    confined: sandbox.Walls,
    account: Account | None,
    *attempts: str,
    inherits: tuple[int, ...] = (),
    prefix: tuple[str, ...] = (),
    folder: Path | None = None,
) -> subprocess.CompletedProcess[str]:
    """What the probe in ``build`` says of ``attempts``, started as a worker of this home."""
    folder = folder or walls.make_folder(home.worker_dir("w0"), account)
    argv = sandbox.command(msgspec.structs.replace(confined, account=account), build, folder, "w0.sock", attempts)
    home.worker_socket("w0").unlink(missing_ok=True)
    return subprocess.run(
        [*prefix, *argv],
        env={"PATH": "/usr/bin:/bin"},
        cwd="/",
        pass_fds=inherits,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )


def outcomes(said: str) -> dict[str, str]:
    """By attempt: ``ok``, or the errno's name."""
    lines = [line.rpartition(" ") for line in said.splitlines() if not line.startswith("{")]
    return {what: outcome for what, _, outcome in lines}


@contextlib.contextmanager
def node_running(home: Home, port: int, *prefix: str, **env: str) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    """``rpcmesh node run``, behind the command ``prefix``; and the file of what it says."""
    said = home.logs / "node.log"
    settings = {"RPCMESH_HOME": str(home.root), "RPCMESH_NODE_LISTEN": f"127.0.0.1:{port}", **env}
    argv = [*prefix, sys.executable, "-m", "rpcmesh", "node", "run"]
    with said.open("wb") as log, subprocess.Popen(argv, env={**os.environ, **settings}, stdout=log, stderr=log) as node:
        try:
            yield node, said
        finally:
            node.terminate()
            node.wait(LIMIT_S)
