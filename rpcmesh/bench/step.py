"""How much of an engine's step is Python. What is measured runs in a process of its own, ``step_process``."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import msgspec

from rpcmesh.errors import RpcmeshError
from rpcmesh.native_build import Build


class StepCost(msgspec.Struct, frozen=True):
    """Medians over ``steps``. ``python_share`` is that of the steps' shares, 0 to 1."""

    sequences: int
    steps: int
    step_ms: float
    llama_ms: float
    python_share: float


def measure(build: Build, model_file: Path, *, sequences: int, steps: int) -> StepCost:
    """One engine on this machine's CPU. Raises :class:`RpcmeshError` when it does not answer."""
    argv = [
        *(sys.executable, "-P", "-m", "rpcmesh.bench.step_process", "--model", str(model_file)),
        *("--sequences", str(sequences), "--steps", str(steps)),
    ]
    environment = os.environ | {"LLAMA_CPP_LIB_PATH": str(build.lib_dir)}
    ended = subprocess.run(argv, env=environment, capture_output=True, check=False)
    if ended.returncode != 0:
        raise RpcmeshError(f"the measured engine ended with {ended.returncode}: {ended.stderr.decode()[-400:]!r}")
    return msgspec.json.decode(ended.stdout, type=StepCost)
