"""What the coordinator's firewall is told of the members: whom to cut, and on which ports nodes listen."""

from __future__ import annotations

import pytest

from rpcmesh.coordinator.addresses import addresses_towards, membership_of
from rpcmesh.coordinator.records import Member, MemberState
from rpcmesh.firewall.membership import Membership


def member(address: str, state: MemberState = MemberState.JOINED) -> Member:
    return Member("n", address, "b", "Linux", 0.0, state)


def revoked(address: str) -> Member:
    return member(address, MemberState.REVOKED)


@pytest.mark.parametrize(
    ("members", "known"),
    [
        ([], Membership()),
        ([member("10.0.0.2:7443")], Membership(node_ports=(7443,))),
        ([revoked("10.0.0.2:7443")], Membership(revoked=("10.0.0.2",), node_ports=(7443,))),
        ([revoked("[fd00::2]:7444"), member("10.0.0.2:7443")], Membership((), ("fd00::2",), (7443, 7444))),
        ([revoked("10.0.0.2:7443"), member("10.0.0.2:7444")], Membership(node_ports=(7443, 7444))),
        ([revoked("127.0.0.1:7443")], Membership(node_ports=(7443,))),
        ([revoked("studio-1.lan:7443")], Membership(node_ports=(7443,))),
    ],
    ids=["nobody", "a member", "a revoked one", "IPv6", "joined anew on its machine", "this machine", "a name"],
)
def test_who_is_cut(members: list[Member], known: Membership) -> None:
    assert membership_of(members) == known


def test_a_node_on_this_machine_hears_from_loopback() -> None:
    assert addresses_towards("127.0.0.1:7443") == ("127.0.0.1",)


def test_of_a_name_nothing_is_said() -> None:
    assert addresses_towards("localhost:7443") == ()
