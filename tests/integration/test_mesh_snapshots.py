"""A long prompt whose engine is lost in mid-answer: the mesh goes on without reading it again."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import whole_mesh
from whole_mesh import until

from rpcmesh.bench.faults import FAULTS
from rpcmesh.demo import ask
from rpcmesh.engine.client import Engine
from rpcmesh.engine.messages import ChatMessage, ChatPrompt, LoadSpec, Score
from rpcmesh.engine.reference import MARGIN_MAX
from rpcmesh.native_build import Build

N_CTX = 2048
QUESTION = (
    "This is a story. " + "The sea was calm that day, and the ship went along the coast. " * 90 + "Tell it again."
)


async def test_a_long_prompt_is_restored_on_the_next_engine_and_not_prefilled(build: Build, smollm2: Path) -> None:
    async with whole_mesh.ready(build, smollm2, n_ctx=N_CTX) as mesh:
        pieces: list[str] = []
        asked = asyncio.create_task(
            ask.stream(
                whole_mesh.endpoint(mesh),
                [ask.Turn(role="user", content=QUESTION)],
                max_tokens=120,
                temperature=0.0,
                on_text=pieces.append,
                with_tokens=True,
            )
        )

        async def enough() -> bool | None:
            return len(pieces) > 30 or None

        await until(enough, "30 pieces of the answer")
        await FAULTS["engine killed"].happen(mesh, "node-1")
        answer = await asked
        (failover,) = (await mesh.admin.status()).failovers
        logged = (mesh.home.logs / "coordinator.log").read_text()

    assert [*failover.stages] == ["planned", "engine_started", "loaded", "restored", "first_new_token"]
    assert restored_tokens(logged) > answer.prompt_tokens > 1200
    assert "the ship went along" not in logged
    assert len(answer.token_ids) == answer.completion_tokens
    async with await Engine.start(lib_dir=build.lib_dir, on_log=lambda _: None) as reference:
        await reference.load(LoadSpec("reference", str(smollm2), n_ctx=N_CTX, n_seq_max=8, n_threads=1))
        prompt = ChatPrompt((ChatMessage(role="user", content=QUESTION),))
        assert max(await reference.margins(Score("answer", prompt, answer.token_ids))) < MARGIN_MAX


def restored_tokens(log: str) -> int:
    (said,) = (json.loads(line) for line in log.splitlines() if "snapshot_restored" in line)
    return int(said["tokens"])
