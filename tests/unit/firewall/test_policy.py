"""A policy that exists is valid: every wrong value is one line that quotes it."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rpcmesh import config
from rpcmesh.errors import RpcmeshError
from rpcmesh.firewall.membership import NOTHING, Membership
from rpcmesh.firewall.policy import Policy, for_home

NODE: dict[str, Any] = {"role": "node", "tls_port": 7443, "peers": ("192.168.1.10",)}


@pytest.mark.parametrize(
    ("changed", "quoted"),
    [
        ({"role": "gateway"}, "'gateway'"),
        ({"tls_port": 0}, "0"),
        ({"tls_port": 65536}, "65536"),
        ({"tls_port": True}, "True"),
        ({"tls_port": "7443"}, "'7443'"),
        ({"peers": ("coordinator.lan",)}, "'coordinator.lan'"),
        ({"peers": ("192.168.1.10 ",)}, "'192.168.1.10 '"),
        ({"peers": ("192.168.1.256",)}, "'192.168.1.256'"),
        ({"peers": ("192.168.1.10/24",)}, "'192.168.1.10/24'"),
        ({"peers": ("10.0.0.1, 10.0.0.2",)}, "'10.0.0.1, 10.0.0.2'"),
        ({"peers": ("fe80::1%en0",)}, "'fe80::1%en0'"),
        ({"peers": ("::ffff:10.0.0.1",)}, "'::ffff:10.0.0.1'"),
        ({"peers": ("224.0.0.1",)}, "'224.0.0.1'"),
        ({"peers": ("0.0.0.0",)}, "'0.0.0.0'"),
        ({"peers": ("0.0.0.0/0",)}, "'0.0.0.0/0'"),
        ({"peers": ("::/0",)}, "'::/0'"),
        ({"peers": ("0.0.0.0/1", "128.0.0.0/1")}, "'0.0.0.0/0'"),
        ({"interfaces": ("",)}, "''"),
        ({"interfaces": ("en0 } pass all",)}, "'en0 } pass all'"),
        ({"interfaces": ('en0"',)}, "'en0\"'"),
        ({"interfaces": ("en*",)}, "'en*'"),
        ({"interfaces": ("en0\n",)}, "'en0\\n'"),
        ({"interfaces": ("0en",)}, "'0en'"),
        ({"interfaces": ("a" * 16,)}, repr("a" * 16)),
        ({"stock_worker_port": 0, "service_uid": 478}, "0"),
        ({"stock_worker_port": 7443, "service_uid": 478}, "7443"),
        ({"stock_worker_port": 50052}, "None"),
        ({"stock_worker_port": 50052, "service_uid": -2}, "-2"),
        ({"stock_worker_port": 50052, "service_uid": "_rpcmesh"}, "'_rpcmesh'"),
        ({"service_uid": 478}, "478"),
    ],
    ids=repr,
)
def test_a_wrong_value_is_one_line_that_quotes_it(changed: dict[str, Any], quoted: str) -> None:
    with pytest.raises(RpcmeshError) as caught:
        Policy(**NODE | changed)
    assert quoted in caught.value.message
    assert "\n" not in caught.value.message


def test_an_address_with_bits_below_its_prefix_gets_its_network_as_hint() -> None:
    with pytest.raises(RpcmeshError) as caught:
        Policy(**NODE | {"peers": ("192.168.1.10/24",)})
    assert caught.value.hint == "the network that it lies in is 192.168.1.0/24"


def test_a_node_without_peers_is_told_the_setting() -> None:
    with pytest.raises(RpcmeshError) as caught:
        Policy(role="node", tls_port=7443)
    assert caught.value.hint is not None
    assert "[firewall] peers" in caught.value.hint


def test_a_coordinator_without_peers_is_open_to_any() -> None:
    assert Policy(role="coordinator", tls_port=8443).tables["peers"] == ()


def test_duplicates_and_overlaps_among_peers_are_gone() -> None:
    policy = Policy(**NODE | {"peers": ("fd00::1", "10.1.0.0/16", "10.0.0.0/8", "10.1.2.3", "fd00::1")})
    assert policy.tables == {"peers": ("10.0.0.0/8", "fd00::1")}


@given(peers=st.lists(st.text(max_size=30), max_size=2), interfaces=st.lists(st.text(max_size=20), max_size=2))
def test_any_text_is_a_policy_or_an_error_of_ours(peers: list[str], interfaces: list[str]) -> None:
    with contextlib.suppress(RpcmeshError):
        made = Policy(role="coordinator", tls_port=8443, peers=tuple(peers), interfaces=tuple(interfaces))
        assert len(made.tables["peers"]) <= len(peers)


OWNER = 478


def test_a_nodes_policy_comes_from_its_listen_address_and_peers() -> None:
    settings = config.Config(
        node=config.Node(listen="[fd00::2]:7444"),
        firewall=config.Firewall(peers=("fd00::1",), clients=("10.0.0.0/8",), interfaces=("en0",)),
    )
    assert for_home(settings, "node", NOTHING, OWNER) == Policy(
        role="node", tls_port=7444, peers=("fd00::1",), interfaces=("en0",)
    )


def test_a_coordinators_policy_comes_from_its_listen_address_and_clients() -> None:
    settings = config.Config(
        coordinator=config.Coordinator(listen="10.0.0.1:8444"),
        firewall=config.Firewall(peers=("fd00::1",), clients=("10.0.0.0/8",)),
    )
    assert for_home(settings, "coordinator", NOTHING, OWNER) == Policy(
        role="coordinator", tls_port=8444, peers=("10.0.0.0/8",)
    )


def test_a_node_follows_the_addresses_that_its_coordinator_has() -> None:
    known = Membership(peers=("10.0.0.1", "fd00::1"))

    assert for_home(config.Config(), "node", known, OWNER).tables == {"peers": ("10.0.0.1", "fd00::1")}


def test_addresses_in_the_settings_of_a_node_are_the_admins_last_word() -> None:
    settings = config.Config(firewall=config.Firewall(peers=("10.0.0.7",)))

    assert for_home(settings, "node", Membership(peers=("10.0.0.1",)), OWNER).peers == ("10.0.0.7",)


def test_a_coordinator_cuts_what_it_has_open_to_revoked_nodes() -> None:
    known = Membership(revoked=("10.0.0.9", "fd00::9"), node_ports=(7443, 7444))

    policy = for_home(config.Config(), "coordinator", known, OWNER)

    assert policy.tables == {"peers": (), "revoked": ("10.0.0.9", "fd00::9")}
    assert policy.node_ports == (7443, 7444)


def test_a_stock_worker_belongs_to_the_owner_of_the_home() -> None:
    settings = config.Config(firewall=config.Firewall(peers=("10.0.0.1",), stock_worker_port=50052))

    policy = for_home(settings, "node", NOTHING, OWNER)

    assert (policy.stock_worker_port, policy.service_uid) == (50052, OWNER)
