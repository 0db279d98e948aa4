"""A model that does not fit what is left waits for a node, takes a smaller context if it may, and says which it is."""

from __future__ import annotations

import asyncio
import json
import ssl
from pathlib import Path
from typing import Any

import openai
import pytest
import whole_mesh
from whole_mesh import holders, until_report, until_told

from rpcmesh.coordinator.report import StatusReport
from rpcmesh.demo import ask
from rpcmesh.errors import RpcmeshError
from rpcmesh.native_build import Build

# SmolLM2 with 4 sequences of 512 tokens takes 138 MiB, and 50 more on each node to compute in.
TOO_SMALL_ALONE_MIB = 140
# Alone it has 105 MiB for 93 of weights: a part of the 45 of the cache.
SMALL_ALONE_MIB = 155
SEA = "Write a long story about the sea."


def does_not_fit(seen: StatusReport) -> bool:
    return seen.reason == "cluster_capacity" and "found no place" in seen.model.reason


async def test_a_model_that_fits_no_more_waits_for_the_node_and_so_does_its_open_answer(
    build: Build, smollm2: Path
) -> None:
    async with whole_mesh.ready(build, smollm2, memory_limit_mib=TOO_SMALL_ALONE_MIB, min_workers=1) as mesh:
        at = whole_mesh.endpoint(mesh)
        shown = await asyncio.to_thread(whole_mesh.run_cli, mesh.home, "plan", whole_mesh.MODEL, "--json")
        assert placed(json.loads(shown.stdout)) == placed_now(await mesh.admin.status())
        refused = await asyncio.to_thread(whole_mesh.run_cli, mesh.home, "node", "drain", "node-2")
        assert refused.returncode == 1
        assert "the 1 worker has 140 MiB" in refused.stderr
        pieces: list[str] = []
        asked = asyncio.create_task(whole_mesh.tell(at, SEA, 120, pieces.append))
        await until_told(pieces, 20)

        await mesh.processes.pop("node-2").stop(10)
        await until_report(mesh, does_not_fit, "a model that does not fit")
        status, code, retry_after = await asyncio.to_thread(ask_once, at)
        await mesh.run_node("node-2")

        assert (status, code) == (503, "cluster_capacity")
        assert int(retry_after) > 0
        assert (await asked).completion_tokens == 120
        assert holders(await mesh.admin.status()) == {"node-1", "node-2"}


def placed(shown: dict[str, Any]) -> list[tuple[str, list[int], bool]]:
    return [(share["node"], share["layers"], share["output"]) for share in shown["devices"]]


def placed_now(seen: StatusReport) -> list[tuple[str, list[int], bool]]:
    return [(part.node, [*part.layers], part.output) for part in seen.model.placement if part.node]


def ask_once(at: ask.Endpoint) -> tuple[int, str | None, str]:
    """Status, code and Retry-After of a request that is refused."""
    trust = ssl.create_default_context(cafile=str(at.ca_file))
    with (
        openai.OpenAI(
            base_url=at.url, api_key=at.api_key, http_client=openai.DefaultHttpxClient(verify=trust), max_retries=0
        ) as client,
        pytest.raises(openai.APIStatusError) as raised,
    ):
        client.completions.create(model=at.model, prompt="Once", max_tokens=1)
    return raised.value.status_code, raised.value.code, raised.value.response.headers["retry-after"]


async def test_an_answer_that_no_memory_is_left_for_ends_with_a_typed_error(build: Build, smollm2: Path) -> None:
    async with whole_mesh.ready(
        build, smollm2, memory_limit_mib=TOO_SMALL_ALONE_MIB, min_workers=1, failover_wait_s=1.0
    ) as mesh:
        pieces: list[str] = []
        asked = asyncio.create_task(whole_mesh.tell(whole_mesh.endpoint(mesh), SEA, 400, pieces.append))
        await until_told(pieces, 5)

        await mesh.processes.pop("node-2").stop(10)

        with pytest.raises(RpcmeshError, match="the machines that are left cannot run this model"):
            await asked


async def test_where_it_may_a_model_goes_on_with_a_smaller_context_and_longer_answers_are_told(
    build: Build, smollm2: Path
) -> None:
    async with whole_mesh.ready(build, smollm2, memory_limit_mib=SMALL_ALONE_MIB, min_workers=1, n_ctx_min=64) as mesh:
        at = whole_mesh.endpoint(mesh)
        assert (await mesh.admin.status()).model.n_ctx == 512
        pieces: list[str] = []
        longer = asyncio.create_task(whole_mesh.tell(at, SEA, 450, pieces.append))
        await until_told(pieces, 250)

        await mesh.processes.pop("node-2").stop(10)

        with pytest.raises(RpcmeshError, match="the machines that are left cannot run this model"):
            await longer
        report = await until_report(mesh, lambda seen: seen.ready, "a mesh that answers")
        assert 64 <= report.model.n_ctx <= 192
        assert "Paris" in (await whole_mesh.answer(at, whole_mesh.FRANCE)).text
