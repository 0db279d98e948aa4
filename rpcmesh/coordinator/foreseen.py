"""Where a model would lie, told from the status document alone: what ``rpcmesh plan`` prints. Loads nothing."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import accumulate

import msgspec

from rpcmesh import config
from rpcmesh.coordinator import capacity
from rpcmesh.coordinator.report import StatusReport
from rpcmesh.errors import RpcmeshError
from rpcmesh.node.worker import GUEST_WORKER
from rpcmesh.plan.facts import ModelFacts
from rpcmesh.plan.fit import TooSmall


class Share(msgspec.Struct, frozen=True):
    """``holds_bytes`` are weights and KV cache; ``free_bytes`` what the device has when it holds nothing."""

    node: str
    worker: str
    device: str
    free_bytes: int
    layers: tuple[int, ...]
    output: bool
    holds_bytes: int


class Foreseen(msgspec.Struct, frozen=True):
    """What ``--json`` prints. Without a fit ``reason`` says what is missing, and nothing has a place."""

    model: str
    fits: bool
    reason: str
    n_ctx: int
    n_seq_max: int
    devices: tuple[Share, ...]


def foresee(model: str, needs: ModelFacts, engine: config.Engine, report: StatusReport) -> Foreseen:
    """Raises :class:`RpcmeshError` when no node is up, or one does not say what memory it has."""
    workers = [
        (node.name, worker, capacity.device_bytes(node.agent, worker.name))
        for node in report.nodes
        if node.state == "up" and node.agent is not None
        for worker in node.agent.workers
        if worker.name != GUEST_WORKER and worker.state == "ready"
    ]
    if not workers:
        raise RpcmeshError("no node is up", hint="rpcmesh node ls")
    silent = next((name for name, _, free in workers if not free), None)
    if silent is not None:
        raise RpcmeshError(f"node {silent!r} does not say what memory it has", hint="rpcmesh node ls")
    placed = capacity.place([free for *_, free in workers], needs, engine, engine.n_ctx)
    if isinstance(placed, TooSmall):
        reason = placed.said(len(workers))
        return Foreseen(model, False, reason, placed.n_ctx, engine.n_seq_max, ())
    devices = [
        (name, worker.name, device.name, free_bytes, count)
        for (name, worker, free), counts in zip(workers, placed.layers, strict=True)
        for device, free_bytes, count in zip(worker.devices, free, counts, strict=True)
    ]
    return Foreseen(
        model=model,
        fits=True,
        reason="",
        n_ctx=placed.n_ctx,
        n_seq_max=engine.n_seq_max,
        devices=tuple(_shares(devices, needs.items(placed.n_ctx * engine.n_seq_max))),
    )


def _shares(devices: list[tuple[str, str, str, int, int]], items: tuple[int, ...]) -> Iterable[Share]:
    n_layer = len(items) - 1
    ends = accumulate(count for *_, count in devices)
    for (node, worker, device, free_bytes, count), end in zip(devices, ends, strict=True):
        yield Share(
            node=node,
            worker=worker,
            device=device,
            free_bytes=free_bytes,
            layers=tuple(range(end - count, min(end, n_layer))),
            output=end - count <= n_layer < end,
            holds_bytes=sum(items[end - count : end]),
        )
