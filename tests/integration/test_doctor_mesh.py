"""What the doctor measures of a real mesh: with a node that goes away in between, and with and without a firewall."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest
import whole_mesh
from network_namespaces import BRIDGE_ADDRESS, inside, network
from test_mesh_namespaces import Machine, three_machines, until_report_of

from rpcmesh.doctor.facts import Clock, Link, Unknown
from rpcmesh.doctor.findings import Finding
from rpcmesh.doctor.gather import mesh as measuring
from rpcmesh.native_build import Build

NFT = shutil.which("nft", path="/usr/sbin:/sbin:/usr/bin:/bin") or ""
# What any firewall for a node amounts to: the coordinator alone gets in.
RULES = f"""table inet guard {{
  chain input {{
    type filter hook input priority 0; policy accept;
    ip saddr != {BRIDGE_ADDRESS} tcp dport 7443 drop
  }}
}}
"""


@pytest.mark.parametrize("silent", [True, False], ids=["a node that hangs", "a node that is gone"])
async def test_a_node_that_goes_away_is_unknown_and_the_other_is_measured(
    build: Build, smollm2: Path, silent: bool
) -> None:
    async with whole_mesh.ready(build, smollm2, nodes=2, min_workers=1) as mesh:
        await whole_mesh.until_report(mesh, lambda seen: {node.state for node in seen.nodes} == {"up"}, "both nodes")
        up = measuring.peers(await mesh.admin.status())
        if silent:
            os.kill(mesh.processes["node-1"].pid, signal.SIGSTOP)
        else:
            await mesh.processes.pop("node-1").stop(10)

        try:
            seen = await measuring.measure(mesh.home, up)
        finally:
            if silent:
                os.kill(mesh.processes["node-1"].pid, signal.SIGCONT)

    assert [peer.name for peer in up] == ["node-1", "node-2"]
    lost, well = seen.links
    why = "the agent did not answer within 3 s" if silent else "the agent cannot be reached"
    assert lost == Unknown(f"node-1: {why}")
    assert isinstance(well, Link)
    assert well.node == "node-2"
    assert min(well.there_bit_s, well.back_bit_s) > 1e6
    (clock,) = seen.clocks
    assert isinstance(clock, Clock)
    # It is the same clock, whatever this machine is busy with.
    assert abs(clock.ahead_s) <= clock.uncertainty_s + 0.05
    assert seen.tried == ()


def strangers(hub: Machine) -> dict[str, tuple[str, str | None]]:
    found = [Finding(**row) for row in json.loads(hub.type("doctor", "--json"))]
    return {finding.message: (finding.level, finding.fix) for finding in found if finding.check == "strangers"}


def load(namespace: str, rules: str) -> None:
    subprocess.run(inside(namespace, NFT, "-f", "-"), input=rules, text=True, check=True)


@pytest.mark.skipif(not NFT, reason="needs nft, from the package nftables")
async def test_a_node_that_lets_other_nodes_in_is_named_until_its_firewall_drops_them(
    build: Build, smollm2: Path
) -> None:
    with network() as net:
        async with three_machines(net, smollm2) as (hub, nodes):
            await until_report_of(hub, lambda seen: {node.state for node in seen.nodes} == {"up"}, "both nodes")
            before = await asyncio.to_thread(strangers, hub)
            await asyncio.to_thread(load, nodes["node-2"], RULES)
            after = await asyncio.to_thread(strangers, hub)

    into_1 = {
        "node-2 reaches node-1's port 7443: its firewall lets strangers in": (
            "warn",
            "on node-1: rpcmesh firewall apply",
        )
    }
    into_2 = {
        "node-1 reaches node-2's port 7443: its firewall lets strangers in": (
            "warn",
            "on node-2: rpcmesh firewall apply",
        )
    }
    assert before == into_1 | into_2
    assert after == into_1 | {"node-2's firewall drops node-1": ("ok", None)}
