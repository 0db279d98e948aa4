"""How an engine ends, and how a model fails to load: always one clear line, never a hang, nothing left behind."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path

import psutil
import pytest
from meshed_engine import (
    answer,
    drain,
    request,
    spec,
    start,
    wait_until,
    worker,
)

from rpcmesh.engine.client import Engine, EngineLoadError, EngineLost
from rpcmesh.engine.messages import (
    DeviceSpec,
)
from rpcmesh.native_build import Build


@pytest.fixture
async def engine(build: Build, smollm2: Path) -> AsyncIterator[Engine]:
    """A local engine with the model loaded."""
    async with await start(build) as engine:
        await engine.load(spec(smollm2))
        yield engine


async def test_a_model_that_is_missing_cut_short_or_no_gguf_is_one_clear_line(
    build: Build, smollm2: Path, tmp_path: Path
) -> None:
    whole = smollm2.read_bytes()
    (tmp_path / "short.gguf").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "header.gguf").write_bytes(whole[:5000])
    (tmp_path / "text.gguf").write_text("hello, I am not a model")
    reasons = {
        "missing.gguf": "No such file or directory",
        "short.gguf": "not within the file bounds, model is corrupted or incomplete",
        "header.gguf": "failed to read key-value pairs",
        "text.gguf": "is not a GGUF file: it begins with b'hell'",
    }
    async with await start(build) as engine:
        for name, reason in reasons.items():
            with pytest.raises(EngineLoadError, match=reason) as raised:
                await engine.load(spec(tmp_path / name))
            assert name in raised.value.message
            assert "\n" not in raised.value.message
        # The same process still loads a good one, and then no other.
        await engine.load(spec(smollm2))
        with pytest.raises(EngineLoadError, match="'smollm2' is loaded already"):
            await engine.load(spec(smollm2))


@pytest.mark.skipif(sys.platform != "linux", reason="no other system limits a process's address space")
async def test_a_load_that_gets_no_memory_says_so_and_can_be_tried_with_less_context(
    build: Build, smollm2: Path
) -> None:
    with worker(build, "node-1", address_space_mib=600) as (small, _):
        async with await start(build) as engine:
            with pytest.raises(EngineLoadError, match="no context of 32768 tokens fits beside the weights") as raised:
                await engine.load(spec(smollm2, small, n_seq_max=64))
            model = await engine.load(spec(smollm2, small, n_seq_max=4))

    assert raised.value.memory
    assert model.n_ctx == 512

    with worker(build, "node-1", address_space_mib=90) as (smaller, _):
        async with await start(build) as engine:
            with pytest.raises(EngineLoadError, match="cannot be loaded: failed to allocate") as raised:
                await engine.load(spec(smollm2, smaller))

    assert raised.value.memory


async def test_a_worker_killed_in_mid_answer_is_an_engine_lost_not_a_hang(build: Build, smollm2: Path) -> None:
    with worker(build, "node-1") as (first, _), worker(build, "node-2") as (second, process):
        async with await start(build) as engine:
            await engine.load(spec(smollm2, first, second))
            streams = [engine.generate(request(name=f"r{n}", max_tokens=None, endless=True)) for n in range(3)]
            for stream in streams:
                await anext(stream)

            process.kill()

            async with asyncio.timeout(5):
                for stream in streams:
                    with pytest.raises(EngineLost):
                        await drain(stream)
                lost = await engine.lost()
    assert lost.exit_code == -signal.SIGABRT
    assert "Remote RPC server crashed" in lost.message


async def test_a_worker_that_is_not_there_is_an_engine_lost(build: Build, smollm2: Path, tmp_path: Path) -> None:
    async with await start(build) as engine:
        with pytest.raises(EngineLost, match="Failed to connect to"):
            await engine.load(spec(smollm2, DeviceSpec(f"{tmp_path}/none.sock:1", "node-1", "w0")))


async def test_a_killed_engine_tells_everyone_who_waits(engine: Engine) -> None:
    assert engine.pid is not None
    stream = engine.generate(request(max_tokens=None, endless=True))
    await anext(stream)

    os.kill(engine.pid, signal.SIGKILL)

    async with asyncio.timeout(5):
        with pytest.raises(EngineLost, match="was ended by SIGKILL"):
            await drain(stream)
        assert (await engine.lost()).exit_code == -signal.SIGKILL
        with pytest.raises(EngineLost):
            await answer(engine, request(name="late"))


async def test_close_ends_the_process_and_whoever_waits(build: Build, smollm2: Path) -> None:
    engine = await start(build)
    await engine.load(spec(smollm2))
    async with aclosing(engine.generate(request(max_tokens=None, endless=True))) as stream:
        await anext(stream)
        await engine.close()
        with pytest.raises(EngineLost, match="ended with exit status 0"):
            await drain(stream)
    assert engine.pid is not None
    assert not psutil.pid_exists(engine.pid)
    await engine.close()


async def test_libraries_that_are_not_there_are_an_engine_lost(tmp_path: Path) -> None:
    with pytest.raises(EngineLost, match="Shared library with base name 'llama' not found"):
        await Engine.start(lib_dir=tmp_path, on_log=lambda _line: None)


def test_an_engine_ends_with_its_owner(build: Build) -> None:
    owner = f"""
import asyncio, os, pathlib
from rpcmesh.engine.client import Engine
async def main():
    engine = await Engine.start(lib_dir=pathlib.Path({str(build.lib_dir)!r}), on_log=print)
    print(engine.pid, flush=True)
    os.kill(os.getpid(), 9)
asyncio.run(main())
"""
    ended = subprocess.run([sys.executable, "-c", owner], capture_output=True, text=True, check=False)
    pid = int(ended.stdout.splitlines()[0])
    wait_until(
        lambda: not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE, "the engine's end"
    )
