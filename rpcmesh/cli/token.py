"""``rpcmesh token …``: let a new node in, once."""

from __future__ import annotations

import re
import time

import click

from rpcmesh import paths
from rpcmesh.cli.output import err, out, print_json
from rpcmesh.coordinator import founding
from rpcmesh.errors import RpcmeshError

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def duration_s(text: str) -> float:
    """``90s``, ``10m``, ``2h``, ``1d`` in seconds."""
    found = re.fullmatch(r"([1-9][0-9]{0,5})([smhd])", text, re.ASCII)
    if found is None:
        raise RpcmeshError(f"{text!r} is not a duration", hint="write 90s, 10m, 2h or 1d")
    return float(int(found[1]) * _UNITS[found[2]])


@click.group()
def token() -> None:
    """Let new nodes in."""


@token.command()
@click.option("--node", metavar="NAME", help="The name the node must take. Default: the node chooses.")
@click.option("--ttl", default="10m", show_default=True, help="How long it is good for.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def create(node: str | None, ttl: str, as_json: bool) -> None:
    """Print a join string for one node. It works once and is not stored; whoever has it can join.

    On the node: rpcmesh join -   (and paste it)
    """
    ttl_s = duration_s(ttl)
    with founding.open_mesh(paths.Home(paths.default_home())) as mesh:
        string = mesh.create_token(node, ttl_s=ttl_s, now=time.time())
    if as_json:
        print_json({"join_string": string, "node": node, "ttl_s": ttl_s})
        return
    out.print(string)
    err.print(f"good for {ttl}, once. On the node: rpcmesh join - (and paste the line above)", style="dim")
