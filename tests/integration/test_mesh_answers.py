"""What a client gets from a mesh of two workers behind mutual TLS, and what a stranger on the machine can reach."""

from __future__ import annotations

import socket
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import openai
import psutil
import pytest
import pytest_asyncio
import whole_mesh
from meshed_engine import answer, request, spec, start, text

from rpcmesh.demo.local_mesh import LocalMesh
from rpcmesh.engine.messages import ChatMessage, ChatPrompt
from rpcmesh.native_build import Build

TLS_ALERT = b"\x15"
QUESTIONS = (whole_mesh.FRANCE, "Count from one to ten.", "Why is the sky blue?")


# One mesh serves all tests of this file: none of them changes it.
pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def mesh(build: Build, smollm2: Path) -> AsyncIterator[LocalMesh]:
    async with whole_mesh.ready(build, smollm2) as running:
        yield running


async def test_two_workers_over_mutual_tls_answer_as_one_local_process_does(
    build: Build, smollm2: Path, mesh: LocalMesh
) -> None:
    at = whole_mesh.endpoint(mesh)
    meshed = [await whole_mesh.answer(at, question, 48) for question in QUESTIONS]

    local = []
    async with await start(build) as engine:
        await engine.load(spec(smollm2))
        for question in QUESTIONS:
            prompt = ChatPrompt((ChatMessage("user", question),))
            local.append(await answer(engine, request(prompt, max_tokens=48)))

    assert [said.text for said in meshed] == [text(deltas) for deltas in local]
    assert [said.completion_tokens for said in meshed] == [
        sum(len(delta.token_ids) for delta in deltas) for deltas in local
    ]
    assert "Paris" in meshed[0].text


async def test_each_link_is_tls_13_to_a_named_node_and_both_hold_layers(mesh: LocalMesh) -> None:
    report = await mesh.admin.status()

    workers = {link.route: link for link in report.links if link.route.endswith(".w0")}
    assert set(workers) == {"node-1.w0", "node-2.w0"}
    assert {link.tls_version for link in report.links} == {"TLSv1.3"}
    assert {link.peer for link in workers.values()} == {"spiffe://demo/node/node-1", "spiffe://demo/node/node-2"}
    placed = {part.node: part.layers for part in report.model.placement if part.node}
    assert sorted(placed["node-1"] + placed["node-2"]) == list(range(30))
    assert placed["node-1"]
    assert placed["node-2"]


async def test_no_listener_of_ours_speaks_plaintext(mesh: LocalMesh) -> None:
    ports = set()
    for process in mesh.processes.values():
        for member in (psutil.Process(process.pid), *whole_mesh.descendants(process.pid)):
            ports |= {
                (seen.laddr.ip, seen.laddr.port)
                for seen in member.net_connections("tcp")
                if seen.status == psutil.CONN_LISTEN
            }

    assert len(ports) == 3  # the gateway and one tunnel a node
    for address in ports:
        with socket.create_connection(address, timeout=10) as stranger:
            stranger.sendall(b"\x0e" + (24).to_bytes(8, "little") + bytes(24))  # RPC's HELLO
            answered = stranger.recv(1024)
        assert answered[:1] in (b"", TLS_ALERT)


async def test_the_openai_client_streams_an_answer(mesh: LocalMesh) -> None:
    trust = ssl.create_default_context(cafile=str(mesh.ca_file))
    async with openai.AsyncOpenAI(
        base_url=mesh.url,
        api_key=whole_mesh.new_key(mesh.home),
        http_client=openai.DefaultAsyncHttpxClient(verify=trust),
    ) as client:
        stream = await client.chat.completions.create(
            model=whole_mesh.MODEL,
            messages=[{"role": "user", "content": QUESTIONS[0]}],
            max_tokens=32,
            temperature=0,
            stream=True,
        )
        said = "".join([chunk.choices[0].delta.content or "" async for chunk in stream if chunk.choices])

    assert said == "The capital of France is Paris."
