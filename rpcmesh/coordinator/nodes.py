"""One node as the coordinator knows it, and whether it was lost between two looks at it."""

from __future__ import annotations

from enum import StrEnum

import msgspec

from rpcmesh.node.status import AgentStatus
from rpcmesh.node.worker import GUEST_WORKER


class NodeState(StrEnum):
    """A node is ``up`` while its agent answers through the tunnel and its worker is ready."""

    UNSEEN = "unseen"
    UP = "up"
    DOWN = "down"
    REVOKED = "revoked"


class Node(msgspec.Struct, frozen=True):
    """``drained``: an admin wants it to hold no layers, whether it answers or not. ``losses``: when its worker went."""

    name: str
    address: str
    state: NodeState = NodeState.UNSEEN
    reason: str = ""
    agent: AgentStatus | None = None
    drained: bool = False
    losses: tuple[float, ...] = ()

    @property
    def ready_workers(self) -> tuple[str, ...]:
        if self.state is not NodeState.UP or self.agent is None or self.drained:
            return ()
        ready = (worker.name for worker in self.agent.workers if worker.state == "ready")
        return tuple(name for name in ready if name != GUEST_WORKER)


def lost_between(former: Node, node: Node) -> bool:
    """Whether a worker that was ready is not, or is so again after a restart between two looks."""
    if not former.ready_workers:
        return False
    return not node.ready_workers or _restarts(node) > _restarts(former)


def _restarts(node: Node) -> int:
    workers = node.agent.workers if node.agent else ()
    return sum(worker.restarts for worker in workers if worker.name != GUEST_WORKER)
