"""The nftables table: golden files byte for byte, and no policy whose text nft refuses."""

from __future__ import annotations

import os
import shutil
import subprocess

import firewall_policies
import pytest
from hypothesis import given, settings

from rpcmesh.firewall import nft
from rpcmesh.firewall.policy import Policy

NFT = shutil.which("nft", path="/usr/sbin:/sbin:/usr/bin:/bin") or ""

needs_nft = pytest.mark.skipif(not NFT or os.geteuid() != 0, reason="checking rules needs nft (nftables) and root")


@pytest.mark.parametrize("name", firewall_policies.KNOWN)
def test_the_rules_are_the_golden_files(name: str) -> None:
    firewall_policies.assert_golden(f"nft-{name}.conf", nft.render(firewall_policies.KNOWN[name]))


@needs_nft
@pytest.mark.parametrize("name", firewall_policies.KNOWN)
def test_nft_accepts_the_golden_files(name: str) -> None:
    checked = subprocess.run(
        [NFT, "-c", "-f", firewall_policies.GOLDEN / f"nft-{name}.conf"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (checked.returncode, checked.stderr) == (0, "")


@needs_nft
@settings(max_examples=50)
@given(firewall_policies.policies(firewall_policies.linux_names))
def test_nft_accepts_any_policy(policy: Policy) -> None:
    checked = subprocess.run(
        [NFT, "-c", "-f", "-"], input=nft.render(policy), capture_output=True, text=True, timeout=60, check=False
    )
    assert (checked.returncode, checked.stderr) == (0, "")


def test_loading_begins_by_removing_the_table_that_was_there() -> None:
    lines = [line for line in nft.render(firewall_policies.KNOWN["node"]).splitlines() if not line.startswith("#")]
    assert lines[:2] == ["table inet rpcmesh", "delete table inet rpcmesh"]


def test_other_addresses_do_not_change_the_frame() -> None:
    now, later = (nft.make(Policy(role="node", tls_port=7443, peers=(peer,))) for peer in ("10.0.0.1", "fd00::1"))

    assert now.frame_sha256 == later.frame_sha256
    assert now.tables != later.tables


def test_other_settings_change_the_frame() -> None:
    frames = {
        nft.make(Policy(role="node", tls_port=port, peers=("10.0.0.1",), interfaces=names)).frame_sha256
        for port in (7443, 7444)
        for names in ((), ("eth0",))
    }

    assert len(frames) == 4


def test_nodes_on_other_ports_do_not_change_the_frame_of_a_coordinator() -> None:
    now, later = (nft.make(Policy(role="coordinator", tls_port=8443, node_ports=ports)) for ports in ((7443,), (7444,)))

    assert now.frame_sha256 == later.frame_sha256
    assert now.node_ports != later.node_ports


def test_a_node_without_a_stock_worker_decides_on_the_way_out_about_its_own_port_alone() -> None:
    _, way_out = nft.render(firewall_policies.KNOWN["node"]).split("hook output")

    decided = [text for text in way_out.splitlines() if "reject" in text or "drop" in text]

    assert decided
    assert all(" tcp sport 7443 " in text for text in decided)
