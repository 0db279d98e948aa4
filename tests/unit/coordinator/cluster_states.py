"""Clusters as the tests of the state know them, and how they are made. No test lives here."""

from __future__ import annotations

import msgspec

from rpcmesh.coordinator import state
from rpcmesh.coordinator.nodes import Node, NodeState
from rpcmesh.coordinator.state import (
    Cluster,
    Event,
    Model,
    ModelState,
)
from rpcmesh.engine.messages import DeviceLayers, LoadedModel
from rpcmesh.firewall.watch import FirewallStatus, State
from rpcmesh.node.status import AgentStatus, CertificateStatus, WorkerStatus

LOADED = LoadedModel(
    name="tiny",
    n_layer=2,
    n_ctx=512,
    n_vocab=100,
    n_params=1000,
    size_bytes=4000,
    has_chat_template=True,
    placement=(),
    load_s=0.5,
    first_token_ms=12.0,
)


def agent(name: str, **workers: str) -> AgentStatus:
    """What node ``name`` says, with ``worker=state`` for each worker."""
    return AgentStatus(
        name=name,
        mesh="m",
        version="1",
        build_id="b",
        backend="cpu",
        os="Linux",
        arch="x86_64",
        uptime_s=1.0,
        memory_total_bytes=2,
        memory_available_bytes=1,
        load_1min=0.0,
        workers=tuple(WorkerStatus(worker, is_now, 1, 0, "", 0) for worker, is_now in workers.items()),
        certificate=CertificateStatus(uri=f"spiffe://m/node/{name}", serial="01", not_before=0.0, not_after=1.0),
        crl_number=1,
        tunnel_state="ready",
    )


A_SAYS = agent("a", w0="ready")
A_UNSEEN = Node("a", "10.0.0.1:7443")
A_UP = Node("a", "10.0.0.1:7443", NodeState.UP, "", A_SAYS)
A_DRAINED = msgspec.structs.replace(A_UP, drained=True)
A_DOWN = Node("a", "10.0.0.1:7443", NodeState.DOWN, "no answer", A_SAYS)
A_LOST = msgspec.structs.replace(A_DOWN, losses=(7.0,))
A_REVOKED = Node("a", "10.0.0.1:7443", NodeState.REVOKED, "revoked")
DRIFT = FirewallStatus(State.DRIFT, "the rules were changed", 1)
A_DRIFTED = msgspec.structs.replace(A_UP, agent=msgspec.structs.replace(A_SAYS, firewall=DRIFT))
LOADING = Model("tiny", ModelState.LOADING, progress=0.5)
READY = Model("tiny", ModelState.READY, progress=1.0, loaded=LOADED, served=True)


def cluster(*nodes: Node, model: Model | None = None) -> Cluster:
    return Cluster(nodes={node.name: node for node in nodes}, model=model or Model())


def fold(before: Cluster, *events: Event) -> Cluster:
    for event in events:
        before = state.apply(before, event)
    return before


PLACED = msgspec.structs.replace(
    LOADED,
    placement=(
        DeviceLayers("a", "w0", "RPC0", (0,), output=False, weight_bytes=1),
        DeviceLayers("b", "w0", "RPC1", (1,), output=True, weight_bytes=1),
        DeviceLayers(None, None, "CPU", (), output=False, weight_bytes=1),
    ),
)
SERVING = Model("tiny", ModelState.READY, progress=1.0, loaded=PLACED, served=True)
LINKS = frozenset({"a.w0", "a.agent", "b.w0", "b.agent"})
A_AND_B = (A_UP, Node("b", "10.0.0.2:7443", NodeState.UP, "", agent("b", w0="ready")))


def restarted(times: int, is_now: str = "ready") -> AgentStatus:
    says = agent("a", w0=is_now, guest="ready")
    worker, guest = says.workers
    return msgspec.structs.replace(says, workers=(msgspec.structs.replace(worker, restarts=times), guest))
