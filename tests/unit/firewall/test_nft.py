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


def test_a_family_without_peers_has_no_rule_that_accepts_it() -> None:
    rules = nft.render(firewall_policies.KNOWN["node"])
    assert "ip saddr @peers_v4 accept" in rules
    assert "@peers_v6" not in rules


def test_without_a_stock_worker_nothing_is_decided_on_the_way_out() -> None:
    assert "hook output" not in nft.render(firewall_policies.KNOWN["node"])
