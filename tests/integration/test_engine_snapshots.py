"""An engine goes on with KV cells that another one saved: its own continuation, without the prefill."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from meshed_engine import GREEDY, token_ids, worker

from rpcmesh.engine.client import Engine, EngineLoadError
from rpcmesh.engine.messages import (
    Delta,
    DeviceSpec,
    GenerateRequest,
    LoadSpec,
    Piece,
    Restored,
    Saved,
    Score,
    Snapshot,
    TextPrompt,
)
from rpcmesh.engine.reference import MARGIN_MAX
from rpcmesh.native_build import Build

N_CTX = 1024
LONG = TextPrompt("The sea was calm that day, and the ship made its way along the coast. " * 20 + "Then")
ASKED = GenerateRequest("long", LONG, 160, GREEDY, ignore_eos=True)


class Keeper:
    """Keeps what is saved of one request, and hears what becomes of it."""

    def __init__(self, refuse_after: int = 1000) -> None:
        self.file = -1
        self.pieces: list[Piece] = []
        self.fingerprint = ""
        self.restored_tokens: list[int] = []
        self._refuse_after = refuse_after

    def saved(self, saved: Saved, file: int | None) -> tuple[str, ...]:
        if file is not None:
            self.close()
            self.file = file
            self.pieces = []
        self.pieces.append(saved.piece)
        self.fingerprint = saved.fingerprint
        return (saved.id,) if len(self.pieces) >= self._refuse_after else ()

    def restored(self, restored: Restored) -> None:
        self.restored_tokens.append(restored.n_tokens)

    def close(self) -> None:
        if self.file >= 0:
            os.close(self.file)

    @property
    def snapshot(self) -> Snapshot:
        return Snapshot(self.fingerprint, tuple(self.pieces))


@pytest.fixture
def keeper() -> Iterator[Keeper]:
    made = Keeper()
    yield made
    made.close()


def spec(model: Path, *devices: DeviceSpec, n_ctx: int = N_CTX, limit: int = 1 << 30) -> LoadSpec:
    return LoadSpec(
        "smollm2",
        str(model),
        devices,
        n_ctx=n_ctx,
        n_seq_max=3,
        n_threads=1,
        snapshot_min_tokens=200,
        snapshot_bytes=limit,
    )


async def begin(build: Build, loaded: LoadSpec, keeper: Keeper, n_tokens: int) -> tuple[int, ...]:
    """The first tokens of the answer, from an engine that then ends."""
    async with await Engine.start(lib_dir=build.lib_dir, on_log=lambda _: None, keeper=keeper) as engine:
        await engine.load(loaded)
        return await first_tokens(engine, n_tokens)


async def first_tokens(engine: Engine, n_tokens: int, name: str = ASKED.id) -> tuple[int, ...]:
    got: list[Delta] = []
    async with contextlib.aclosing(engine.generate(msgspec.structs.replace(ASKED, id=name))) as deltas:
        async for delta in deltas:
            got.append(delta)
            if len(got) == n_tokens:
                break
    return token_ids(got)


async def go_on(
    engine: Engine, sent: tuple[int, ...], keeper: Keeper, snapshot: Snapshot | None = None
) -> tuple[int, ...]:
    request = msgspec.structs.replace(
        ASKED, id=f"resumed {time.monotonic_ns()}", resume_token_ids=sent, snapshot=snapshot or keeper.snapshot
    )
    return token_ids([delta async for delta in engine.generate(request, keeper.file)])


async def test_a_lost_engine_s_cells_fit_one_with_another_split_and_another_context(
    build: Build, smollm2: Path, keeper: Keeper
) -> None:
    with worker(build, "node-1") as (first, _), worker(build, "node-2") as (second, _):
        sent = await begin(build, spec(smollm2, first, second), keeper, 12)
        async with await Engine.start(lib_dir=build.lib_dir, on_log=lambda _: None, keeper=keeper) as engine:
            await engine.load(spec(smollm2, second, n_ctx=800))
            saved_before = keeper.pieces[-1].stop
            rest = await go_on(engine, sent, keeper)

    assert keeper.restored_tokens == [saved_before]
    assert saved_before > 300
    assert len(sent + rest) == 160
    # What this engine decoded behind it is saved too, in the same file, for the one after it.
    assert keeper.pieces[-1].stop > saved_before
    async with await Engine.start(lib_dir=build.lib_dir, on_log=lambda _: None) as reference:
        await reference.load(LoadSpec("reference", str(smollm2), n_ctx=N_CTX, n_seq_max=8, n_threads=1))
        assert max(await reference.margins(Score("whole", LONG, sent + rest))) < MARGIN_MAX


async def test_bytes_that_are_not_those_that_were_saved_are_not_restored(
    build: Build, smollm2: Path, keeper: Keeper
) -> None:
    lines: list[str] = []
    async with await Engine.start(lib_dir=build.lib_dir, on_log=lines.append, keeper=keeper) as engine:
        await engine.load(spec(smollm2))
        sent = await first_tokens(engine, 8)
        whole = keeper.snapshot
        last = whole.pieces[-1]
        os.pwrite(keeper.file, bytes(8), last.offset + last.n_bytes // 2)

        altered = await go_on(engine, sent, keeper, whole)
        replaced = keeper.snapshot
        other_model = await go_on(engine, sent, keeper, Snapshot("of another", replaced.pieces))
        os.ftruncate(keeper.file, 1000)
        truncated = await go_on(engine, sent, keeper, keeper.snapshot)

    assert keeper.restored_tokens == [0]
    refused = [line for line in lines if "snapshot not restored" in line]
    assert len(refused) == 3
    assert f"tokens {last.start} to {last.stop} are not what was saved of them" in refused[0]
    assert "it is of another model" in refused[1]
    assert "are not in a file of 1000" in refused[2]
    # All are prefilled instead, and a new file begins.
    assert altered == other_model == truncated
    assert replaced.pieces[0].start == 0


async def test_a_restored_answer_waits_for_a_slot_and_leaves_the_others_theirs(
    build: Build, smollm2: Path, keeper: Keeper
) -> None:
    async with await Engine.start(lib_dir=build.lib_dir, on_log=lambda _: None, keeper=keeper) as engine:
        await engine.load(spec(smollm2))
        sent = await first_tokens(engine, 8)
        snapshot = keeper.snapshot
        alone = await go_on(engine, sent, keeper, snapshot)
        others = [
            engine.generate(GenerateRequest(f"other {n}", TextPrompt("Once"), None, GREEDY, True)) for n in range(3)
        ]
        for other in others:
            await anext(other)

        async with asyncio.TaskGroup() as group:
            waiting = group.create_task(go_on(engine, sent, keeper, snapshot))
            await anext(others[0])
            assert len(keeper.restored_tokens) == 1
            await others[1].aclose()

        assert len(keeper.restored_tokens) == 2
        assert len(waiting.result()) == len(alone)
        for other in others:
            await other.aclose()


async def test_of_an_answer_that_nobody_keeps_nothing_more_is_saved(build: Build, smollm2: Path) -> None:
    keeper = Keeper(refuse_after=1)

    await begin(build, spec(smollm2), keeper, 40)

    # The pieces are saved one a step; a second may have been under way.
    assert len(keeper.pieces) <= 2
    keeper.close()


async def test_a_directory_that_is_not_there_is_found_out_at_the_load(
    build: Build, smollm2: Path, keeper: Keeper, tmp_path: Path
) -> None:
    nowhere = msgspec.structs.replace(spec(smollm2), snapshot_dir=str(tmp_path / "nowhere"))

    async with await Engine.start(lib_dir=build.lib_dir, on_log=lambda _: None, keeper=keeper) as engine:
        with pytest.raises(EngineLoadError, match=r"nothing can be saved in snapshot_dir '.*nowhere': No such file"):
            await engine.load(nowhere)


@pytest.mark.parametrize(("limit", "stops"), [(7 << 20, [128, 256]), (1 << 20, [])])
async def test_of_one_sequence_no_more_than_the_limit_is_saved(
    build: Build, smollm2: Path, keeper: Keeper, limit: int, stops: list[int]
) -> None:
    async with await Engine.start(lib_dir=build.lib_dir, on_log=lambda _: None, keeper=keeper) as engine:
        await engine.load(spec(smollm2, limit=limit))
        await first_tokens(engine, 20)
        assert [piece.stop for piece in keeper.pieces] == stops

        # The engine serves on.
        assert await first_tokens(engine, 4, name="another")
