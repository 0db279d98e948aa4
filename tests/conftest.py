"""What every test may lean on: the real native build, the real model, and nothing left behind."""

from __future__ import annotations

import shutil
import signal
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from rpcmesh import native_build, paths
from rpcmesh.models import catalog
from rpcmesh.native_build import source

# How long an example takes on a busy machine says nothing about the code.
settings.register_profile("rpcmesh", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("rpcmesh")

# A run that a shell put into the background ignores Ctrl-C, and so would each program that a test interrupts.
signal.signal(signal.SIGINT, signal.default_int_handler)


def _quiet(_stage: str, _fraction: float) -> None:
    pass


@pytest.fixture(scope="session")
def build() -> native_build.Build:
    """The native parts of this checkout, compiled on first use into the user's cache."""
    return native_build.build(
        cache=paths.default_cache(), native=paths.shipped("native"), backend="cpu", llama=None, progress=_quiet
    )


@pytest.fixture(scope="session")
def tunnel_binary(build: native_build.Build) -> Path:
    return build.tunnel


@pytest.fixture(scope="session")
def llama_source() -> Path:
    """The pinned llama.cpp tree."""
    return source.pinned(paths.default_cache()).llama


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """SmolLM2-135M-Instruct, verified."""
    return catalog.pull("smollm2-135m-instruct", paths.default_cache(), _quiet)


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    """In place of pytest's own, which is too long for a home with sockets in it."""
    root = Path(tempfile.mkdtemp(prefix="rm-", dir="/tmp")).resolve()
    yield root
    shutil.rmtree(root, ignore_errors=True)


@pytest.fixture
def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
