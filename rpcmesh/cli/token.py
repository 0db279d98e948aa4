"""``rpcmesh token …``: let a new node in, once."""

from __future__ import annotations

import time

import click

from rpcmesh import paths
from rpcmesh.cli.duration import DURATION
from rpcmesh.cli.output import err, out, print_json
from rpcmesh.coordinator import founding
from rpcmesh.words import span


@click.group()
def token() -> None:
    """Let new nodes in."""


@token.command()
@click.option("--node", metavar="NAME", help="The name the node must take. Default: the node chooses.")
@click.option("--ttl", type=DURATION, default="10m", show_default=True, help="How long it is good for.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def create(node: str | None, ttl: float, as_json: bool) -> None:
    """Print a join string for one node. It works once and is not stored; whoever has it can join.

    On the node: rpcmesh join -   (and paste it)
    """
    with founding.open_mesh(paths.Home(paths.default_home())) as mesh:
        string = mesh.create_token(node, ttl_s=ttl, now=time.time())
    if as_json:
        print_json({"join_string": string, "node": node, "ttl_s": ttl})
        return
    out.print(string)
    err.print(f"good for {span(ttl)}, once. On the node: rpcmesh join - (and paste the line above)", style="dim")
