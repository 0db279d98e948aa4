"""What happens to a serving mesh when a member is revoked, renewed, lost, or not the same build."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import time
from pathlib import Path

import psutil
import pytest
import whole_mesh
from whole_mesh import holders, node_in, until, until_report, until_told

from rpcmesh import paths
from rpcmesh.coordinator.report import StatusReport
from rpcmesh.demo.local_mesh import LocalMesh
from rpcmesh.errors import RpcmeshError
from rpcmesh.native_build import Build
from rpcmesh.pki import identity, names
from rpcmesh.pki.authority import Authority
from rpcmesh.tunnel import status as tunnel_status

DAY_S = 86400.0
OTHER_ID = "f00df00df00df00d"


def renewal_is_over(before: str, mesh: LocalMesh, node: str) -> bool:
    return identity.load(mesh.node_home(node).identity).serial != before


async def test_a_revoked_node_is_cut_off_and_the_others_answer_on(build: Build, smollm2: Path) -> None:
    async with whole_mesh.ready(build, smollm2, min_workers=1) as mesh:
        before = (await mesh.admin.status()).nodes[0].agent
        assert before is not None
        at = whole_mesh.endpoint(mesh)

        done = await asyncio.to_thread(whole_mesh.run_cli, mesh.home, "node", "revoke", "node-2")
        revoked_at = time.monotonic()
        assert (done.returncode, done.stdout) == (0, "node node-2 is revoked\n")

        async def cut() -> bool | None:
            seen = await tunnel_status.fetch(mesh.home.socket("tunnel"))
            return None if any(session.route.startswith("node-2.") for session in seen.sessions) else True

        await until(cut, "the end of node-2's connections", limit_s=1.0)
        assert time.monotonic() - revoked_at < 1.0
        report = await until_report(
            mesh,
            lambda seen: seen.ready and {part.node for part in seen.model.placement if part.layers} == {"node-1"},
            "an answer from node-1 alone",
        )
        assert node_in(report, "node-2").state == "revoked"
        await until_report(
            mesh, lambda seen: crl_number(seen, "node-1") == before.crl_number + 1, "the new list at the other node"
        )
        assert "Paris" in (await whole_mesh.answer(at, whole_mesh.FRANCE)).text


def crl_number(report: StatusReport, node: str) -> int:
    agent = node_in(report, node).agent
    return agent.crl_number if agent else 0


async def test_a_revoked_node_stays_out_after_the_coordinator_starts_again(build: Build, smollm2: Path) -> None:
    async with whole_mesh.ready(build, smollm2, min_workers=1) as mesh:
        await mesh.processes.pop("coordinator").stop(10)
        # Without a coordinator the verb writes the list itself; it goes out with the next start.
        done = await asyncio.to_thread(whole_mesh.run_cli, mesh.home, "node", "revoke", "node-1")
        assert done.returncode == 0, done.stderr

        await mesh.run_coordinator()
        report = await mesh.ready(lambda _: None, whole_mesh.READY_LIMIT_S)

        assert {part.node for part in report.model.placement if part.layers} == {"node-2"}
        assert "node-1" not in {node.name for node in report.nodes}


async def test_a_leaf_past_half_its_life_is_renewed_under_live_sessions(build: Build, smollm2: Path) -> None:
    async with whole_mesh.founded(build, smollm2, min_workers=1) as mesh:
        await mesh.join("node-1")
        home = mesh.node_home("node-1").identity
        # As if it had been issued six days ago.
        authority = Authority.open(mesh.home.authority)
        csr = identity.begin_renewal(home)
        leaf = authority.sign_csr(csr, names.node_uri("demo", "node-1"), time.time() - 6 * DAY_S)
        identity.finish_renewal(home, leaf.pem)

        await mesh.run_node("node-1")
        await mesh.ready(lambda _: None, whole_mesh.READY_LIMIT_S)
        at = whole_mesh.endpoint(mesh)

        async def renewed() -> bool | None:
            return renewal_is_over(leaf.serial, mesh, "node-1") or None

        await until(renewed, "the new leaf")
        held = identity.load(home)
        assert held.not_after - time.time() > 6 * DAY_S
        ingress = await tunnel_status.fetch(mesh.node_home("node-1").socket("tunnel"))
        engine_sessions = [seen for seen in ingress.sessions if seen.route == "rpcmesh/rpc/w0"]
        assert len(engine_sessions) == 1  # the engine's, from before
        assert "Paris" in (await whole_mesh.answer(at, whole_mesh.FRANCE)).text
        later = await tunnel_status.fetch(mesh.node_home("node-1").socket("tunnel"))
        assert [seen.id for seen in later.sessions if seen.route == "rpcmesh/rpc/w0"] == [engine_sessions[0].id]


async def test_a_worker_killed_in_mid_answer_costs_its_client_nothing(build: Build, smollm2: Path) -> None:
    async with whole_mesh.ready(build, smollm2) as mesh:
        at = whole_mesh.endpoint(mesh)
        agent = node_in(await mesh.admin.status(), "node-1").agent
        assert agent is not None
        pid = agent.workers[0].pid
        assert pid is not None
        pieces: list[str] = []
        asked = asyncio.create_task(whole_mesh.tell(at, "Write a long story about the sea.", 200, pieces.append))

        await until_told(pieces, 20)
        os.kill(pid, signal.SIGKILL)
        before = "".join(pieces)

        story = await asked
        assert story.text.startswith(before)
        assert story.completion_tokens == 200
        report = await until_report(
            mesh,
            lambda seen: seen.ready and is_restarted(seen) and holders(seen) == {"node-1", "node-2"},
            "a mesh that uses both nodes",
        )
        assert [(failover.answers, [*failover.stages]) for failover in report.failovers] == [
            (1, ["planned", "engine_started", "loaded", "first_new_token"])
        ]
        assert "Paris" in (await whole_mesh.answer(at, whole_mesh.FRANCE)).text


async def test_an_answer_that_no_machine_is_left_for_ends_with_a_typed_error(build: Build, smollm2: Path) -> None:
    async with whole_mesh.founded(build, smollm2, min_workers=1, failover_wait_s=0.5) as mesh:
        await mesh.join("node-1")
        await mesh.run_node("node-1")
        await mesh.ready(lambda _: None, whole_mesh.READY_LIMIT_S)
        pieces: list[str] = []
        asked = asyncio.create_task(
            whole_mesh.tell(whole_mesh.endpoint(mesh), "Write a long story about the sea.", 400, pieces.append)
        )

        await until_told(pieces, 5)
        await mesh.processes.pop("node-1").stop(10)

        with pytest.raises(RpcmeshError, match="the machines that are left cannot run this model"):
            await asked


def is_restarted(report: StatusReport) -> bool:
    agent = node_in(report, "node-1").agent
    return agent is not None and agent.workers[0].restarts == 1 and agent.workers[0].last_exit == "killed by SIGKILL"


async def test_a_node_that_comes_later_takes_its_share_once_nobody_asks(build: Build, smollm2: Path) -> None:
    async with whole_mesh.ready(build, smollm2, nodes=1) as mesh:
        await mesh.join("node-2")
        await mesh.run_node("node-2")

        report = await until_report(mesh, lambda seen: seen.ready and "node-2" in holders(seen), "layers on node-2")

        assert holders(report) == {"node-1", "node-2"}
        assert "Paris" in (await whole_mesh.answer(whole_mesh.endpoint(mesh), whole_mesh.FRANCE)).text


async def test_lost_nodes_are_named_the_rest_goes_on_and_a_mesh_without_any_says_that_it_waits(
    build: Build, smollm2: Path
) -> None:
    async with whole_mesh.ready(build, smollm2) as mesh:
        await mesh.processes.pop("node-2").stop(10)

        report = await until_report(
            mesh, lambda seen: "nothing answers" in node_in(seen, "node-2").reason, "the loss of node-2"
        )
        assert f"nothing answers at {node_in(report, 'node-2').address}" in node_in(report, "node-2").reason
        await until_report(mesh, lambda seen: seen.ready and holders(seen) == {"node-1"}, "the model on node-1 alone")

        await mesh.processes.pop("node-1").stop(10)
        waiting = await until_report(mesh, lambda seen: seen.reason == "waiting_for_workers", "a mesh that waits")
        shown = await asyncio.to_thread(whole_mesh.run_cli, mesh.home, "status")
        assert not waiting.ready
        assert shown.returncode == 1
        assert "not ready: waiting_for_workers" in shown.stdout

        await mesh.run_node("node-2")
        await mesh.ready(lambda _: None, whole_mesh.READY_LIMIT_S)


async def test_a_frozen_node_is_noticed_and_its_answer_goes_on_elsewhere(build: Build, smollm2: Path) -> None:
    async with whole_mesh.ready(build, smollm2) as mesh:
        pieces: list[str] = []
        asked = asyncio.create_task(
            whole_mesh.tell(whole_mesh.endpoint(mesh), "Write a long story about the sea.", 200, pieces.append)
        )

        await until_told(pieces, 20)
        frozen = [mesh.processes["node-2"].pid, *(each.pid for each in descendants_of(mesh, "node-2"))]
        for pid in frozen:
            os.kill(pid, signal.SIGSTOP)
        try:
            before = "".join(pieces)
            story = await asked
            report = await mesh.admin.status()
        finally:
            for pid in frozen:
                os.kill(pid, signal.SIGCONT)

        assert story.text.startswith(before)
        assert story.completion_tokens == 200
        assert holders(report) == {"node-1"}


def descendants_of(mesh: LocalMesh, node: str) -> list[psutil.Process]:
    return whole_mesh.descendants(mesh.processes[node].pid)


async def test_a_node_with_another_build_is_refused_at_the_door_and_both_ids_are_named(
    build: Build, smollm2: Path, tmp_path: Path
) -> None:
    async with whole_mesh.founded(build, smollm2, min_workers=1) as mesh:
        token = whole_mesh.run_cli(mesh.home, "token", "create", "--node", "node-1").stdout.split()[0]
        cache = cache_with_another_build(build, tmp_path)

        refused = await asyncio.to_thread(
            whole_mesh.run_cli, mesh.node_home("node-1"), "join", "-", stdin=token, RPCMESH_CACHE=str(cache)
        )

        assert refused.returncode == 1
        assert OTHER_ID in refused.stderr
        assert build.build_id in refused.stderr
        assert not identity.exists(mesh.node_home("node-1").identity)


async def test_a_node_that_changed_its_build_is_not_used_and_both_ids_are_named(
    build: Build, smollm2: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with whole_mesh.founded(build, smollm2, min_workers=1) as mesh:
        await mesh.join("node-1")
        monkeypatch.setenv("RPCMESH_CACHE", str(cache_with_another_build(build, tmp_path)))
        await mesh.run_node("node-1")

        report = await until_report(mesh, lambda seen: OTHER_ID in node_in(seen, "node-1").reason, "the verdict")

        assert node_in(report, "node-1").state == "down"
        assert build.build_id in node_in(report, "node-1").reason
        assert not report.ready


def cache_with_another_build(build: Build, cache: Path) -> Path:
    """The same binaries under the same key, with a manifest that says that they come from another source."""
    copy = cache / "builds" / build.dir.name
    shutil.copytree(build.dir, copy, symlinks=True)
    (cache / "source").symlink_to(paths.default_cache() / "source")
    manifest = copy / "manifest.json"
    manifest.write_text(manifest.read_text().replace(build.build_id, OTHER_ID))
    return cache
