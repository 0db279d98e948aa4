"""The pf anchor: golden files byte for byte, and no policy whose text our reader refuses."""

from __future__ import annotations

import firewall_policies
import pytest
from hypothesis import given

from rpcmesh.errors import RpcmeshError
from rpcmesh.firewall import pf, pf_lint
from rpcmesh.firewall.policy import Policy


@pytest.mark.parametrize("name", firewall_policies.KNOWN)
def test_the_rules_are_the_golden_files(name: str) -> None:
    firewall_policies.assert_golden(f"pf-{name}.conf", pf.render(firewall_policies.KNOWN[name]))


@given(firewall_policies.policies(firewall_policies.macos_names))
def test_our_reader_accepts_any_policy(policy: Policy) -> None:
    assert pf_lint.lint(pf.render(policy)) == []


@pytest.mark.parametrize("name", ["any", "en", "br-lan", "enp3s0.7"])
def test_a_name_that_macos_cannot_have_is_refused(name: str) -> None:
    with pytest.raises(RpcmeshError) as caught:
        pf.render(Policy(role="node", tls_port=7443, peers=("10.0.0.1",), interfaces=(name,)))
    assert repr(name) in caught.value.message


def test_without_a_stock_worker_no_rule_names_a_user() -> None:
    assert " user " not in pf.render(firewall_policies.KNOWN["node"])


def test_no_rule_of_an_open_coordinator_names_peers() -> None:
    assert "rpcmesh_peers" not in pf.render(firewall_policies.KNOWN["coordinator-any"])
