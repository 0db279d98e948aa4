"""Layers move off a node, onto one that is back, and onto all of them on request, and no answer loses a token by it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path

import whole_mesh
from whole_mesh import holders, node_in, typed_but_for_enter, until_report, until_told

from rpcmesh.coordinator import founding
from rpcmesh.demo import ask
from rpcmesh.demo.local_mesh import LocalMesh
from rpcmesh.engine import reference
from rpcmesh.engine.messages import ChatMessage, ChatPrompt, Score
from rpcmesh.native_build import Build

SEA = "Write a long story about the sea."
N_TOKENS = 200


async def story(at: ask.Endpoint, on_text: Callable[[str], None]) -> ask.Answer:
    turns = [ask.Turn(role="user", content=SEA)]
    return await ask.stream(at, turns, max_tokens=N_TOKENS, temperature=0.0, on_text=on_text, with_tokens=True)


async def worst_margin(build: Build, model_file: Path, told: ask.Answer) -> float:
    asked = Score("story", ChatPrompt((ChatMessage(role="user", content=SEA),)), told.token_ids)
    (margins,) = await reference.margins(build.lib_dir, model_file, [asked])
    return max(margins)


async def cli(mesh: LocalMesh, *verb: str) -> tuple[int, str, str]:
    done = await asyncio.to_thread(whole_mesh.run_cli, mesh.home, *verb)
    return done.returncode, done.stdout, done.stderr


async def test_a_node_is_drained_in_mid_answer_stays_so_and_comes_back_when_it_is_resumed(
    build: Build, smollm2: Path
) -> None:
    async with (
        whole_mesh.ready(build, smollm2, min_workers=1) as mesh,
        typed_but_for_enter(mesh.home, "node", "drain", "node-2", "--json") as drain,
    ):
        pieces: list[str] = []
        asked = asyncio.create_task(story(whole_mesh.endpoint(mesh), pieces.append))
        await until_told(pieces, 20)

        code, said, _ = await drain()
        before = "".join(pieces)
        # As it says that it is safe: all of the node goes away.
        await mesh.processes.pop("node-2").stop(10)

        assert (code, json.loads(said)) == (0, {"node": "node-2", "state": "drained", "safe": True})
        told = await asked
        assert told.text.startswith(before)
        assert len(told.token_ids) == told.completion_tokens == N_TOKENS
        assert await worst_margin(build, smollm2, told) <= reference.MARGIN_MAX
        report = await mesh.admin.status()
        assert holders(report) == {"node-1"}
        assert [(each.reason, each.answers, [*each.stages]) for each in report.failovers] == [
            ("node node-2 is drained", 1, ["planned", "engine_started", "loaded", "first_new_token"])
        ]

        await mesh.run_node("node-2")
        await until_report(
            mesh, lambda seen: "resume node-2" in node_in(seen, "node-2").reason, "a drained node that answers"
        )
        assert (await cli(mesh, "node", "resume", "node-2"))[0] == 0
        assert (await cli(mesh, "model", "load", whole_mesh.MODEL))[0] == 0
        assert holders(await mesh.admin.status()) == {"node-1", "node-2"}
        with founding.open_mesh(mesh.home) as opened:
            actions = [entry.action.value for entry in opened.store.audit()]
        assert [action for action in actions if action in {"node_drained", "node_resumed"}] == [
            "node_resumed",
            "node_drained",
        ]


async def test_a_drained_node_stays_drained_over_a_restart_of_the_coordinator(build: Build, smollm2: Path) -> None:
    async with whole_mesh.ready(build, smollm2, min_workers=1) as mesh:
        await mesh.processes.pop("coordinator").stop(10)
        # Without a coordinator nothing has to move.
        assert await cli(mesh, "node", "drain", "node-1") == (
            0,
            "node node-1 is drained: it is safe to switch it off\n",
            "",
        )

        await mesh.run_coordinator()
        report = await mesh.ready(lambda _: None, whole_mesh.READY_LIMIT_S)

        assert holders(report) == {"node-2"}
        assert node_in(report, "node-1").state == "drained"


async def test_the_only_node_is_not_drained_unless_by_force(build: Build, smollm2: Path) -> None:
    async with whole_mesh.ready(build, smollm2, nodes=1) as mesh:
        code, _, said = await cli(mesh, "node", "drain", "node-1")

        assert code == 1
        assert "without node 'node-1' the model has no place: 0 of at least 1 workers are ready" in said
        assert holders(await mesh.admin.status()) == {"node-1"}

        assert (await cli(mesh, "node", "drain", "node-1", "--force"))[0] == 0
        report = await until_report(mesh, lambda seen: seen.reason == "waiting_for_workers", "a mesh that waits")
        assert node_in(report, "node-1").state == "drained"


async def test_an_answer_goes_on_when_a_node_that_holds_layers_is_revoked(build: Build, smollm2: Path) -> None:
    async with (
        whole_mesh.ready(build, smollm2) as mesh,
        typed_but_for_enter(mesh.home, "node", "revoke", "node-2") as revoke,
    ):
        pieces: list[str] = []
        asked = asyncio.create_task(story(whole_mesh.endpoint(mesh), pieces.append))
        await until_told(pieces, 20)

        code, _, _ = await revoke()

        told = await asked
        assert code == 0
        assert len(told.token_ids) == told.completion_tokens == N_TOKENS
        assert await worst_margin(build, smollm2, told) <= reference.MARGIN_MAX
        report = await mesh.admin.status()
        assert holders(report) == {"node-1"}
        assert [each.reason for each in report.failovers] == ["node node-2 is revoked"]


async def test_an_eager_mesh_takes_a_new_node_in_under_an_open_answer(build: Build, smollm2: Path) -> None:
    async with whole_mesh.ready(build, smollm2, nodes=1, rebalance="eager") as mesh:
        await mesh.join("node-2")
        pieces: list[str] = []
        asked = asyncio.create_task(story(whole_mesh.endpoint(mesh), pieces.append))
        await until_told(pieces, 5)

        await mesh.run_node("node-2")

        told = await asked
        assert len(told.token_ids) == told.completion_tokens == N_TOKENS
        report = await until_report(mesh, lambda seen: seen.ready and "node-2" in holders(seen), "layers on node-2")
        assert holders(report) == {"node-1", "node-2"}
        assert await worst_margin(build, smollm2, told) <= reference.MARGIN_MAX
