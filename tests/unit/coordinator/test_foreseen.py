"""What would lie where is told from the nodes that are up, as if they held nothing."""

from __future__ import annotations

import pytest
from test_capacity import CARD, FACTS, MIB, cluster, says

from rpcmesh.config import Engine
from rpcmesh.coordinator import state
from rpcmesh.coordinator.foreseen import Share, foresee
from rpcmesh.coordinator.report import StatusReport, report
from rpcmesh.coordinator.state import Cluster
from rpcmesh.errors import RpcmeshError
from rpcmesh.firewall.watch import FirewallStatus
from rpcmesh.gateway.request_queue import Figures
from rpcmesh.node.status import Device

SMALL = Engine(n_batch=1, n_seq_max=1)
TINY_CARD = Device("CUDA0", "a small card", total_mib=600, free_mib=524)


def of(seen: Cluster) -> StatusReport:
    return report(
        seen,
        None,
        mesh="m",
        version="1",
        build_id="b",
        endpoint="",
        uptime_s=1.0,
        reason=None,
        firewall=FirewallStatus(),
        requests=Figures(),
    )


def test_each_device_says_what_it_would_hold() -> None:
    found = foresee("tiny", FACTS, SMALL, of(cluster(says("a", CARD, CARD), says("b", CARD))))

    assert (found.fits, found.reason, found.n_ctx, found.n_seq_max) == (True, "", 4096, 1)
    assert found.devices == (
        Share("a", "w0", "CUDA0", 700 * MIB, (0, 1), output=False, holds_bytes=200 * MIB),
        Share("a", "w0", "CUDA0", 700 * MIB, (2, 3), output=False, holds_bytes=200 * MIB),
        Share("b", "w0", "CUDA0", 700 * MIB, (), output=True, holds_bytes=50 * MIB),
    )


def test_a_model_that_does_not_fit_says_what_is_missing() -> None:
    found = foresee("tiny", FACTS, SMALL, of(cluster(says("a", TINY_CARD))))

    assert not found.fits
    assert found.devices == ()
    assert found.reason.endswith("250 MiB found no place")


def test_nodes_that_are_drained_or_down_do_not_count() -> None:
    three = cluster(says("a", CARD), says("b", CARD), says("c", CARD))
    left = state.apply(state.apply(three, state.NodeDrained("b")), state.NodeUnreachable("c", "no answer"))

    assert {share.node for share in foresee("tiny", FACTS, SMALL, of(left)).devices} == {"a"}


@pytest.mark.parametrize(
    ("seen", "says_so"), [(Cluster(), "no node is up"), (cluster(says("a")), "node 'a' does not say what memory")]
)
def test_without_a_device_there_is_nothing_to_tell(seen: Cluster, says_so: str) -> None:
    with pytest.raises(RpcmeshError, match=says_so):
        foresee("tiny", FACTS, SMALL, of(seen))
