"""How the end of a worker and what the tunnel says of its session become one incident, in whatever order they come."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest

from rpcmesh.node.incidents import LOSS_LASTS_S, Graph, Incident, Ledger, Said, reset_reason
from rpcmesh.supervise.child import Exit
from rpcmesh.supervise.supervisor import Ended

ABORTED = Ended(Exit(signal_name="SIGABRT"), ("last words",))
GIVEN_UP = Ended(Exit(code=1), (), final=True)
RESET = Ended(Exit(signal_name="SIGKILL"), (), reset="compute_timeout")


def lost(session: int = 4, event: str = "worker_lost", reason: str = "local_closed") -> Said:
    graph = Graph(device=0, nodes=1, tensors=3, ops={"ADD": 1})
    return Said(event, "r", session, "spiffe://m/coordinator", reason, "GRAPH_COMPUTE", graph)  # type: ignore[arg-type]


class Told:
    """A ledger that is told of worker w0, and all that it gave."""

    def __init__(self) -> None:
        self.ledger = Ledger()
        self.now = 1000.0
        self.incidents: list[Incident] = []

    def opened(self, session: int = 4) -> None:
        self.incidents += self.ledger.opened("w0", session)

    def said(self, said: Said | None = None) -> None:
        self.incidents += self.ledger.said("w0", said or lost(), self.now)

    def closed(self, session: int = 4) -> None:
        self.incidents += self.ledger.closed("w0", session)

    def ended(self, ended: Ended = ABORTED) -> None:
        self.incidents += self.ledger.ended("w0", ended, self.now)

    def ready(self) -> None:
        self.incidents += self.ledger.ready("w0", 310)

    def tunnel_ended(self) -> None:
        self.incidents += self.ledger.tunnel_ended()


WHOLE = [Incident("w0", ABORTED, lost(), 310)]
# The tunnel's two in their order, the supervisor's two in theirs.
ORDERS = sorted(set(itertools.permutations(["tunnel", "tunnel", "supervisor", "supervisor"])))


@pytest.mark.parametrize("order", ORDERS, ids=["-".join(word[0] for word in order) for order in ORDERS])
def test_in_every_order_there_is_one_incident_with_everything_in_it(order: tuple[str, ...]) -> None:
    told = Told()
    told.opened()
    steps: dict[str, list[Callable[[], None]]] = {
        "tunnel": [told.said, told.closed],
        "supervisor": [told.ended, told.ready],
    }
    for number, who in enumerate(order):
        assert told.incidents == [], f"complete before step {number}"
        steps[who].pop(0)()
    assert told.incidents == WHOLE


def test_the_end_of_a_worker_that_serves_nobody_names_nobody() -> None:
    told = Told()
    told.ended()
    told.ready()
    assert told.incidents == [Incident("w0", ABORTED, None, 310)]


def test_a_session_that_was_over_before_is_not_named() -> None:
    told = Told()
    told.opened()
    told.closed()
    told.ended()
    told.ready()
    assert told.incidents == [Incident("w0", ABORTED, None, 310)]


def test_a_worker_that_hung_up_on_one_session_and_died_in_the_next_is_blamed_on_the_next() -> None:
    told = Told()
    told.opened(4)
    told.said(lost(4))
    told.closed(4)
    told.opened(5)
    told.ended()
    told.said(lost(5))
    told.closed(5)
    told.ready()
    assert told.incidents == [Incident("w0", ABORTED, lost(5), 310)]


@pytest.mark.parametrize(("later_s", "named"), [(LOSS_LASTS_S, lost()), (LOSS_LASTS_S + 0.001, None)])
def test_a_worker_that_hung_up_and_died_much_later_died_of_something_else(later_s: float, named: Said | None) -> None:
    told = Told()
    told.opened()
    told.said()
    told.closed()
    told.now += later_s
    told.ended()
    told.ready()
    assert told.incidents == [Incident("w0", ABORTED, named, 310)]


def test_a_session_with_the_next_worker_says_nothing_of_the_last() -> None:
    told = Told()
    told.opened(4)
    told.ended()
    told.said(lost(4))
    told.closed(4)
    told.opened(5)  # its socket was there before the supervisor had seen it
    told.ready()
    assert told.incidents == WHOLE


def test_a_worker_that_ends_again_before_it_is_ready_makes_two_incidents() -> None:
    told = Told()
    told.opened()
    told.ended()
    told.said()
    told.closed()
    told.ended()
    told.ready()
    assert told.incidents == [Incident("w0", ABORTED, lost(), None), Incident("w0", ABORTED, None, 310)]


def test_a_worker_that_is_given_up_is_told_at_once() -> None:
    told = Told()
    told.ended(GIVEN_UP)
    assert told.incidents == [Incident("w0", GIVEN_UP, None, None)]


def test_a_tunnel_that_ended_will_say_nothing_more() -> None:
    told = Told()
    told.opened()
    told.ended()
    told.ready()
    assert told.incidents == []
    told.tunnel_ended()
    assert told.incidents == [Incident("w0", ABORTED, None, 310)]


def test_a_reset_knows_what_it_was_for() -> None:
    told = Told()
    told.opened()
    told.said(lost(event="worker_stuck", reason="compute_timeout"))
    told.ended(RESET)
    told.closed()
    told.ready()
    assert told.incidents == [Incident("w0", RESET, lost(event="worker_stuck", reason="compute_timeout"), 310)]


def test_at_the_end_the_rest_is_told_once() -> None:
    told = Told()
    told.opened()
    told.ended()
    assert told.ledger.rest() == [Incident("w0", ABORTED, None, None)]
    assert told.ledger.rest() == []


def test_workers_are_kept_apart() -> None:
    ledger = Ledger()
    assert ledger.opened("w0", 1) == []
    assert ledger.ended("guest", ABORTED, 0.0) == []
    assert ledger.ready("guest", 5) == [Incident("guest", ABORTED, None, 5)]


def test_the_first_start_is_no_incident() -> None:
    assert Ledger().ready("w0", 100) == []


@pytest.mark.parametrize(
    ("reason", "said"),
    [
        ("compute_timeout", "compute_timeout"),
        ("reply_invalid", "reply_invalid"),
        ("peer_closed", "client_gone"),
        ("peer_stalled", "client_gone"),
        ("revoked", "client_gone"),
    ],
)
def test_a_worker_is_ended_for_what_it_did_or_because_nobody_wants_its_result(reason: str, said: str) -> None:
    assert reset_reason(lost(event="worker_stuck", reason=reason)) == said
