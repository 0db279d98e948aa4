"""A node whose worker is lost again and again is held out, says so, and is used again when that is over."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import whole_mesh
from whole_mesh import holders, node_in, until_report

from rpcmesh.coordinator.report import StatusReport
from rpcmesh.demo.local_mesh import LocalMesh
from rpcmesh.native_build import Build
from rpcmesh.node.status import WorkerStatus
from rpcmesh.node.worker import ENGINE_WORKER

NODE = "node-2"


def worker_in(report: StatusReport) -> WorkerStatus | None:
    agent = node_in(report, NODE).agent
    return next((worker for worker in agent.workers if worker.name == ENGINE_WORKER), None) if agent else None


def has_restarted(report: StatusReport, times: int) -> bool:
    worker = worker_in(report)
    return worker is not None and worker.state == "ready" and worker.restarts == times


async def kill_worker(mesh: LocalMesh) -> None:
    worker = worker_in(await mesh.admin.status())
    assert worker is not None
    assert worker.pid is not None
    os.kill(worker.pid, signal.SIGKILL)


async def test_a_node_that_flaps_is_held_out_for_a_while(build: Build, smollm2: Path) -> None:
    async with whole_mesh.ready(build, smollm2, min_workers=1) as mesh:
        await until_report(mesh, lambda seen: seen.ready and NODE in holders(seen), "layers on both nodes")
        for times in range(1, 4):
            await kill_worker(mesh)
            await until_report(mesh, lambda seen, times=times: has_restarted(seen, times), "the worker's return")

        report = await until_report(
            mesh,
            lambda seen: seen.ready and holders(seen) == {"node-1"} and "held out" in node_in(seen, NODE).reason,
            "a mesh that does without the node",
        )

        assert node_in(report, NODE).state == "up"
        assert "lost 3 times" in node_in(report, NODE).reason
        assert "Paris" in (await whole_mesh.answer(whole_mesh.endpoint(mesh), whole_mesh.FRANCE)).text
        await until_report(mesh, lambda seen: seen.ready and NODE in holders(seen), "layers on the node again")
