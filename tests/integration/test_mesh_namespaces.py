"""Three machines, as an admin sets them up with the README's verbs: what is reachable, and what a silent loss does."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

from network_namespaces import BRIDGE_ADDRESS, Network, inside, network
from whole_mesh import FRANCE, MODEL, RPCMESH, node_in, short_home, until

from rpcmesh.coordinator import admin
from rpcmesh.coordinator.report import StatusReport
from rpcmesh.native_build import Build
from rpcmesh.paths import Home
from rpcmesh.supervise import child

# Runs in the coordinator's namespace and prints the open TCP ports of each address given.
SCAN = """
import errno, json, socket, sys
found = {}
for address in sys.argv[1:]:
    found[address] = []
    for port in range(1, 65536):
        with socket.socket() as probe:
            probe.settimeout(1)
            if probe.connect_ex((address, port)) == 0:
                found[address].append(port)
print(json.dumps(found))
"""


class Machine:
    """A namespace with a home of its own, where verbs are typed."""

    def __init__(self, namespace: str, home: Home) -> None:
        self.namespace = namespace
        self.home = home

    def type(self, *verb: str, stdin: str = "") -> str:
        done = subprocess.run(
            inside(self.namespace, *RPCMESH, *verb),
            env={**os.environ, "RPCMESH_HOME": str(self.home.root)},
            input=stdin,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def running(self, *verb: str) -> contextlib.AbstractAsyncContextManager[child.Child]:
        env = {"PATH": os.environ["PATH"], "HOME": os.environ["HOME"], "RPCMESH_HOME": str(self.home.root)}
        return child.running(
            verb[0], inside(self.namespace, *RPCMESH, *verb), env=env, on_line=lambda _: None, grace_s=15
        )

    async def report(self) -> StatusReport:
        return await admin.AdminClient(self.home.socket(admin.SOCKET_NAME)).status()


@contextlib.asynccontextmanager
async def three_machines(net: Network, model_file: Path) -> AsyncIterator[tuple[Machine, dict[str, str]]]:
    """The coordinator's machine and the namespaces of ``node-1`` and ``node-2``, serving."""
    async with contextlib.AsyncExitStack() as stack:
        hub = Machine(net.hub, stack.enter_context(short_home()))
        hub.type("init", "--name", "lab", "--listen", f"{BRIDGE_ADDRESS}:8443")
        hub.type("model", "add", str(model_file), "--name", MODEL)
        await stack.enter_async_context(hub.running("serve", "--model", MODEL))
        await until_report_of(hub, lambda _: True, "the coordinator")
        nodes = {}
        for name in ("node-1", "node-2"):
            namespace, address = net.add()
            machine = Machine(namespace, stack.enter_context(short_home()))
            string = hub.type("token", "create", "--node", name).split()[0]
            said = machine.type("join", "-", stdin=string)
            assert f"{name} joined mesh lab, listening on {address}:7443 (Ethernet, eth0)" in said
            await stack.enter_async_context(machine.running("node", "run"))
            nodes[name] = namespace
        yield hub, nodes


async def until_report_of(hub: Machine, true: Callable[[StatusReport], bool], what: str) -> StatusReport:
    async def look() -> StatusReport | None:
        try:
            report = await hub.report()
        except admin.NotRunningError:
            return None
        return report if true(report) else None

    return await until(look, what)


def holders(report: StatusReport) -> set[str]:
    return {part.node for part in report.model.placement if part.layers and part.node}


async def test_two_nodes_are_reachable_on_their_tunnel_alone_and_a_silent_loss_is_survived(
    build: Build, smollm2: Path
) -> None:
    with network() as net:
        async with three_machines(net, smollm2) as (hub, nodes):
            await until_report_of(hub, lambda seen: seen.ready and holders(seen) == set(nodes), "layers on both nodes")
            answer = await asyncio.to_thread(hub.type, "chat", FRANCE, "--temperature", "0")
            scan = await asyncio.to_thread(
                subprocess.run,
                inside(hub.namespace, sys.executable, "-c", SCAN, "10.77.0.2", "10.77.0.3"),
                capture_output=True,
                text=True,
                check=True,
            )

            assert answer == "The capital of France is Paris.\n"
            assert json.loads(scan.stdout) == {"10.77.0.2": [7443], "10.77.0.3": [7443]}

            net.drop_silently(nodes["node-1"])
            await until_report_of(hub, lambda seen: node_in(seen, "node-1").state == "down", "the loss noticed")
            await until_report_of(hub, lambda seen: seen.ready and holders(seen) == {"node-2"}, "the node that is left")
            again = await asyncio.to_thread(hub.type, "chat", FRANCE, "--temperature", "0")
            assert again == "The capital of France is Paris.\n"
