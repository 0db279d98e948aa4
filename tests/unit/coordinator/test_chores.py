"""What a node is due, as the coordinator decides it: a newer revocation list, and a new leaf at half life."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_cluster_state import agent

from rpcmesh.coordinator.members import Chore, chores
from rpcmesh.node.status import AgentStatus, CertificateStatus
from rpcmesh.pki import renewal

DAY_S = 86400.0
BORN = 1_000_000.0
ENDS = BORN + 7 * DAY_S
# Serials whose jitter is 0, one half and almost 1: renewal at 3.15, 3.5 and 3.85 days.
EARLIEST, MIDDLE, LATEST = "00", "80000000", "ffffffff"


def node(serial: str = MIDDLE, crl_number: int = 5) -> AgentStatus:
    leaf = CertificateStatus(uri="spiffe://m/node/a", serial=serial, not_before=BORN, not_after=ENDS)
    return msgspec.structs.replace(agent("a", w0="ready"), certificate=leaf, crl_number=crl_number)


@pytest.mark.parametrize(
    ("has", "newest", "due"),
    [
        (0, 1, [Chore.REVOCATIONS]),
        (4, 5, [Chore.REVOCATIONS]),
        (5, 5, []),
        # Ours is older than what the node has: never sent, the node would refuse it.
        (6, 5, []),
    ],
)
def test_an_older_list_is_replaced(has: int, newest: int, due: list[Chore]) -> None:
    assert chores(node(crl_number=has), crl_number=newest, now=BORN) == tuple(due)


@pytest.mark.parametrize(
    ("serial", "age_days", "due"),
    [
        (MIDDLE, -1, []),
        (MIDDLE, 0, []),
        (MIDDLE, 3.49, []),
        (MIDDLE, 3.5, [Chore.RENEWAL]),
        (MIDDLE, 6.9, [Chore.RENEWAL]),
        # Expired: it asks no less.
        (MIDDLE, 8, [Chore.RENEWAL]),
        (EARLIEST, 3.14, []),
        (EARLIEST, 3.16, [Chore.RENEWAL]),
        (LATEST, 3.84, []),
        (LATEST, 3.86, [Chore.RENEWAL]),
    ],
)
def test_a_leaf_is_renewed_around_half_life(serial: str, age_days: float, due: list[Chore]) -> None:
    assert chores(node(serial), crl_number=5, now=BORN + age_days * DAY_S) == tuple(due)


def test_the_list_goes_before_the_certificate() -> None:
    """Whoever was revoked is cut off first; signing comes after."""
    assert chores(node(crl_number=4), crl_number=5, now=ENDS) == (Chore.REVOCATIONS, Chore.RENEWAL)


def test_nothing_is_due_on_a_node_that_has_it_all() -> None:
    assert chores(node(), crl_number=5, now=BORN) == ()


@pytest.mark.parametrize(
    ("believed", "true", "due"),
    [
        ((), ("10.0.0.1",), (Chore.ADDRESSES,)),
        (("10.0.0.1",), ("10.0.0.1",), ()),
        (("10.0.0.1",), ("10.0.0.2",), (Chore.ADDRESSES,)),
        (("10.0.0.1",), (), ()),
    ],
    ids=["unknown", "known", "moved", "no way there"],
)
def test_a_node_is_told_where_its_coordinator_is(
    believed: tuple[str, ...], true: tuple[str, ...], due: tuple[Chore, ...]
) -> None:
    told = msgspec.structs.replace(node(), coordinator_addresses=believed)

    assert chores(told, crl_number=5, now=BORN, addresses=true) == due


@given(
    serial=st.integers(0, 2**160 - 1).map("{:x}".format),
    ages=st.tuples(st.floats(0, 8 * DAY_S), st.floats(0, 8 * DAY_S)).map(sorted),
)
def test_what_was_due_stays_due(serial: str, ages: list[float]) -> None:
    earlier, later = (chores(node(serial), crl_number=5, now=BORN + age) for age in ages)
    assert set(earlier) <= set(later)


@given(serial=st.integers(0, 2**160 - 1).map("{:x}".format))
def test_every_leaf_has_days_left_when_its_renewal_is_due(serial: str) -> None:
    half, spread = BORN + 3.5 * DAY_S, renewal.JITTER * 3.5 * DAY_S
    assert Chore.RENEWAL not in chores(node(serial), crl_number=5, now=half - spread - 1)
    assert Chore.RENEWAL in chores(node(serial), crl_number=5, now=half + spread)
