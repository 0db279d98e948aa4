"""``rpcmesh join``: make this machine a node of a mesh."""

from __future__ import annotations

import asyncio
import sys
import time

import click
import msgspec

from rpcmesh import config, paths
from rpcmesh.cli import listening
from rpcmesh.cli.build import configured
from rpcmesh.cli.output import err, out
from rpcmesh.demo.home import refuse_remains
from rpcmesh.node import joining
from rpcmesh.pki.files import write_private


@click.command(short_help="Make this machine a node of a mesh.")
@click.argument("string", metavar="STRING|-")
@click.option(
    "--listen",
    metavar="ADDR:PORT",
    help="Where the coordinator reaches this node. Default: the best interface found, port 7443.",
)
@click.option("--name", help="What to call this node, if the join string leaves it open. Default: the host name.")
def join(string: str, listen: str | None, name: str | None) -> None:
    """Join the mesh that STRING is for; `-` reads it from standard input, so that it shows in no process list.

    The key is made here and never leaves this machine.
    """
    home = paths.Home(paths.default_home())
    refuse_remains(home)
    settings = config.load(home.config)
    chosen = listening.choose(listen, config.TUNNEL_PORT)
    if string == "-":
        if sys.stdin.isatty():
            err.print("paste the join string and press return:", style="dim")
        string = sys.stdin.readline()
    built = configured(settings.build)
    result = asyncio.run(joining.join(home, string, chosen.listen, built.build_id, time.time(), node=name))
    node = msgspec.structs.replace(settings.node, name=result.node, listen=chosen.listen)
    joined = msgspec.structs.replace(settings, mesh=config.Mesh(name=result.mesh), node=node)
    write_private(home.config, config.render(joined).encode())
    out.print(f"{result.node} joined mesh {result.mesh}, listening on {chosen}")
    for other in chosen.others:
        out.print(f"  not chosen: {other}")
    out.print("next: rpcmesh node run")
