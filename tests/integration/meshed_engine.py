"""Real engines, real workers, and short ways to ask them. No test lives here."""

from __future__ import annotations

import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rpcmesh.engine.client import Engine
from rpcmesh.engine.messages import Delta, DeviceSpec, GenerateRequest, LoadSpec, Prompt, Sampling, TextPrompt
from rpcmesh.native_build import Build

GREEDY = Sampling(temperature=0)
FRANCE = TextPrompt("The capital of France is")
N_CTX = 512
N_SLOTS = 4


async def start(build: Build) -> Engine:
    return await Engine.start(lib_dir=build.lib_dir, on_log=lambda _line: None)


def spec(model: Path, *devices: DeviceSpec, n_seq_max: int = N_SLOTS) -> LoadSpec:
    # Tests run beside each other, and threads that wait for one another do so at full speed.
    return LoadSpec("smollm2", str(model), devices, n_ctx=N_CTX, n_seq_max=n_seq_max, n_threads=1)


def request(
    prompt: Prompt = FRANCE,
    *,
    name: str = "r",
    max_tokens: int | None = 16,
    sampling: Sampling = GREEDY,
    endless: bool = False,
) -> GenerateRequest:
    return GenerateRequest(name, prompt, max_tokens, sampling, ignore_eos=endless)


async def answer(engine: Engine, asked: GenerateRequest) -> list[Delta]:
    return [delta async for delta in engine.generate(asked)]


def text(deltas: list[Delta]) -> str:
    return "".join(delta.text for delta in deltas)


def token_ids(deltas: list[Delta]) -> tuple[int, ...]:
    return tuple(token for delta in deltas for token in delta.token_ids)


@contextmanager
def worker(
    build: Build, node: str, address_space_mib: int | None = None
) -> Iterator[tuple[DeviceSpec, subprocess.Popen[bytes]]]:
    with tempfile.TemporaryDirectory(prefix="rpcmesh-", dir="/tmp") as folder:
        path = Path(folder) / "w0.sock"
        limited = ["prlimit", f"--as={address_space_mib << 20}"] if address_space_mib else []
        with subprocess.Popen(
            [*limited, build.worker, "-H", path, "-p", "1", "-t", "1"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        ) as process:
            try:
                wait_until(path.exists, "the worker's socket")
                yield DeviceSpec(f"{path}:1", node, "w0"), process
            finally:
                process.kill()


def wait_until(condition: Callable[[], bool], what: str, timeout_s: float = 10) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not come within {timeout_s} s"
        time.sleep(0.01)


async def drain(stream: AsyncIterator[Delta]) -> None:
    async for _ in stream:
        pass
