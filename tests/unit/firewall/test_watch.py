"""What a look at the rules means later, and which words a coordinator's addresses may have."""

from __future__ import annotations

from pathlib import Path

import pytest

from rpcmesh.errors import PeerError, RpcmeshError
from rpcmesh.firewall import membership, watch
from rpcmesh.firewall.membership import Membership
from rpcmesh.firewall.watch import Seen, State

FRESH, DRIFTED = (
    Seen("", at=100.0, good_until=200.0, drifts=3),
    Seen("they were changed", at=100.0, good_until=200.0, drifts=4),
)


@pytest.mark.parametrize(
    ("seen", "now", "state", "reason", "drifts"),
    [
        (None, 100.0, State.UNWATCHED, "does not run", 0),
        (FRESH, 150.0, State.VERIFIED, "", 3),
        (FRESH, 201.0, State.UNWATCHED, "gone silent", 3),
        (DRIFTED, 150.0, State.DRIFT, "they were changed", 4),
        (DRIFTED, 201.0, State.UNWATCHED, "gone silent", 4),
    ],
    ids=["nobody looks", "as meant", "gone silent", "drift", "silent after drift"],
)
def test_what_a_look_means(seen: Seen | None, now: float, state: State, reason: str, drifts: int) -> None:
    status = watch.judge(seen, now, booted_at=50.0)

    assert (status.state, status.drifts) == (state, drifts)
    assert reason in status.reason


def test_a_look_from_before_the_machine_started_tells_nothing() -> None:
    assert watch.judge(FRESH, 150.0, booted_at=120.0).state is State.UNWATCHED


def test_a_look_is_read_as_it_was_written(tmp_path: Path) -> None:
    watch.write(tmp_path, DRIFTED)

    assert watch.read(tmp_path) == DRIFTED


def test_a_file_that_makes_no_sense_is_no_look(tmp_path: Path) -> None:
    watch.write(tmp_path, DRIFTED)
    watch.path(tmp_path).write_text("{")

    assert watch.read(tmp_path) is None


@pytest.mark.parametrize(
    ("said", "kept"),
    [
        (("10.0.0.1",), ("10.0.0.1",)),
        (("fd00::1", "10.0.0.2", "10.0.0.1", "10.0.0.1"), ("10.0.0.1", "10.0.0.2", "fd00::1")),
    ],
)
def test_a_coordinators_addresses_are_kept_in_order(said: tuple[str, ...], kept: tuple[str, ...]) -> None:
    assert membership.single_addresses(said) == kept


@pytest.mark.parametrize(
    "said",
    [
        (),
        ("0.0.0.0/0",),
        ("10.0.0.0/8",),
        ("0.0.0.0",),
        ("::",),
        ("224.0.0.1",),
        ("fe80::1%eth0",),
        ("::ffff:10.0.0.1",),
        ("studio.lan",),
        ("10.0.0.1; flush ruleset",),
        tuple(f"10.0.0.{number}" for number in range(9)),
    ],
)
def test_a_coordinator_cannot_open_a_node_to_more_than_itself(said: tuple[str, ...]) -> None:
    with pytest.raises(PeerError):
        membership.single_addresses(said)


def test_the_mesh_as_it_was_written(tmp_path: Path) -> None:
    known = Membership(("10.0.0.1",), (), (7443,))

    assert membership.write(tmp_path, known)
    assert not membership.write(tmp_path, known)
    assert membership.read(tmp_path) == known


def test_before_anything_was_written_nothing_is_known(tmp_path: Path) -> None:
    assert membership.read(tmp_path) == membership.NOTHING


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    membership.write(tmp_path, Membership(("10.0.0.1",)))
    membership.path(tmp_path).write_text("{}}")

    with pytest.raises(RpcmeshError) as caught:
        membership.read(tmp_path)
    assert str(membership.path(tmp_path)) in caught.value.message
