"""What follows from what was measured, and what is measured next: plain values, no network."""

from __future__ import annotations

import pytest

from rpcmesh.doctor.gather.mesh import Peer, Reading, clock_of, next_count, others
from rpcmesh.node.measure import MAX_BYTES

MIB = 2**20
A, B, C = (Peer(name, f"10.0.0.{number}:7443", "Linux 6.1") for number, name in enumerate("abc", 1))


def test_the_fastest_reading_tells_the_clock_with_half_its_round_trip_as_the_error() -> None:
    slow = Reading(asked=100.0, node=105.8, answered=101.0)
    fast = Reading(asked=200.0, node=205.01, answered=200.02)

    clock = clock_of(A, [slow, fast, slow])

    assert clock.ahead_s == pytest.approx(5.0)
    assert clock.uncertainty_s == pytest.approx(0.01)
    assert (clock.node, clock.os) == ("a", "Linux 6.1")


@pytest.mark.parametrize("node", [200.0, 200.01, 200.02])
def test_a_clock_that_is_right_is_within_its_error_wherever_in_the_round_trip_it_was_read(node: float) -> None:
    clock = clock_of(A, [Reading(asked=200.0, node=node, answered=200.02)])

    assert abs(clock.ahead_s) <= clock.uncertainty_s + 1e-9


@pytest.mark.parametrize(
    ("count", "took_s", "left_s", "expected"),
    [
        (MIB, 0.001, 1.0, 8 * MIB),
        (MIB, 0.25, 1.0, 2 * MIB),
        (MIB, 0.9, 1.0, MIB),
        (MIB, 1.0, 1.0, None),
        (MIB, 0.5, 0.0, None),
        (MIB, 0.5, -0.1, None),
        (MAX_BYTES, 0.001, 1.0, MAX_BYTES),
    ],
)
def test_streams_grow_until_the_time_is_used(count: int, took_s: float, left_s: float, expected: int | None) -> None:
    assert next_count(count, took_s=took_s, left_s=left_s) == expected


def test_each_node_tries_the_others_beginning_with_the_next_one() -> None:
    tried = {peer.name: [node.name for node, _, _ in others(peer, (A, B, C))] for peer in (A, B, C)}

    assert tried == {"a": ["b", "c"], "b": ["c", "a"], "c": ["a", "b"]}
    assert [(host, port) for _, host, port in others(A, (A, B))] == [("10.0.0.2", 7443)]


@pytest.mark.parametrize("address", ["127.0.0.1:7443", "[::1]:7443", "10.0.0.1:7444", "node.example:7443"])
def test_what_says_nothing_of_a_firewall_is_not_tried(address: str) -> None:
    beside = Peer("beside", address, "Linux 6.1")

    assert list(others(A, (A, beside))) == []
