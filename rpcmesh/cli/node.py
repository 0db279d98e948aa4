"""``rpcmesh node …``: run a node; list and revoke nodes."""

from __future__ import annotations

import asyncio
import time

import click

from rpcmesh import config, paths
from rpcmesh.cli import running
from rpcmesh.cli.build import configured
from rpcmesh.cli.output import out, print_json
from rpcmesh.cli.status import fetch, print_nodes
from rpcmesh.coordinator import admin, founding
from rpcmesh.node import service
from rpcmesh.observe import error_log, logs


@click.group()
def node() -> None:
    """Run this node; on the coordinator, list and revoke nodes."""


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
