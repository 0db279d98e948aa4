"""``rpcmesh node …``: run a node; list, drain and revoke nodes."""

from __future__ import annotations

import asyncio
import time

import click
import msgspec

from rpcmesh import config, paths
from rpcmesh.cli import running
from rpcmesh.cli.build import configured
from rpcmesh.cli.output import out, print_json
from rpcmesh.cli.status import fetch, print_nodes
from rpcmesh.coordinator import admin, founding
from rpcmesh.coordinator.report import StatusReport
from rpcmesh.coordinator.said import DRAINED, DRAINING
from rpcmesh.errors import RpcmeshError
from rpcmesh.node import service
from rpcmesh.observe import error_log, logs

POLL_S = 0.2


class Drained(msgspec.Struct, frozen=True):
    """What ``node drain --json`` prints. ``safe``: nothing is lost when the node is switched off now."""

    node: str
    state: str
    safe: bool


@click.group()
def node() -> None:
    """Run this node; on the coordinator, list, drain and revoke nodes."""


@node.command()
def run() -> None:
    """Run this node in the foreground: worker, tunnel and agent. Stops on Ctrl-C or SIGTERM."""
    home = paths.Home(paths.default_home()).ensure()
    settings = config.load(home.config)
    logs.configure(settings.log.level, settings.log.format, error_log.path_of(home))
    built = configured(settings.build)
    running.run(running.until_stopped(lambda stop: service.run_node(home, settings, built, stop)))


@node.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def ls(as_json: bool) -> None:
    """List the nodes as the running coordinator sees them."""
    report = fetch()
    if as_json:
        print_json(report.nodes)
    else:
        print_nodes(report.nodes)


@node.command()
@click.argument("name")
@click.option("--force", is_flag=True, help="Also when what is served now cannot be served without it.")
@click.option("--no-wait", is_flag=True, help="Do not wait until it is safe to switch the node off.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def drain(name: str, force: bool, no_wait: bool, as_json: bool) -> None:
    """Move the layers off node NAME, and say when it is safe to switch it off.

    Open answers pause and go on. The node takes no layers until `rpcmesh node resume`, also after a restart.
    """
    home = paths.Home(paths.default_home())
    try:
        state = asyncio.run(_drain(admin.AdminClient(home.socket(admin.SOCKET_NAME)), name, force, no_wait))
    except admin.NotRunningError:
        # Nothing is served, so nothing has to move.
        with founding.open_mesh(home) as mesh:
            mesh.store.drain_member(name, founding.ACTOR, time.time())
        state = DRAINED
    safe = state == DRAINED
    if as_json:
        print_json(Drained(node=name, state=state, safe=safe))
    else:
        out.print(f"node {name} is {state}: " + ("it is safe to switch it off" if safe else "rpcmesh node ls"))


async def _drain(coordinator: admin.AdminClient, name: str, force: bool, no_wait: bool) -> str:
    """The node's state in the end."""
    await coordinator.drain(name, force=force)
    while (state := _state_of(await coordinator.status(), name)) != DRAINED and not no_wait:
        if state != DRAINING:
            raise RpcmeshError(f"node {name!r} is {state} meanwhile", hint="rpcmesh node ls")
        await asyncio.sleep(POLL_S)
    return state


def _state_of(report: StatusReport, name: str) -> str:
    return next((node.state for node in report.nodes if node.name == name), "gone")


@node.command()
@click.argument("name")
def resume(name: str) -> None:
    """Let node NAME take layers again: at the next idle moment, or on `rpcmesh model load`."""
    home = paths.Home(paths.default_home())
    try:
        asyncio.run(admin.AdminClient(home.socket(admin.SOCKET_NAME)).resume(name))
    except admin.NotRunningError:
        with founding.open_mesh(home) as mesh:
            mesh.store.resume_member(name, founding.ACTOR, time.time())
    out.print(f"node {name} is resumed")


@node.command()
@click.argument("name")
def revoke(name: str) -> None:
    """Cut node NAME off: its connections end at once and its certificates count no longer.

    To come back it must join anew.
    """
    home = paths.Home(paths.default_home())
    try:
        asyncio.run(admin.AdminClient(home.socket(admin.SOCKET_NAME)).revoke(name))
    except admin.NotRunningError:
        # Without a running coordinator nothing is connected; the list goes out when it starts.
        with founding.open_mesh(home) as mesh:
            mesh.revoke(name, time.time())
    out.print(f"node {name} is revoked")
