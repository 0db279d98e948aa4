"""``rpcmesh init``: make this machine the coordinator of a new mesh."""

from __future__ import annotations

import time

import click

from rpcmesh import config, paths
from rpcmesh.cli import listening
from rpcmesh.cli.output import out
from rpcmesh.coordinator import founding
from rpcmesh.demo.home import refuse_remains


@click.command()
@click.option(
    "--name", default="mesh", show_default=True, help="What to call the mesh: lower-case letters, digits and dashes."
)
@click.option(
    "--listen",
    metavar="ADDR:PORT",
    help="Where clients and joining nodes reach the HTTPS endpoint. Default: the best interface found, port 8443.",
)
def init(name: str, listen: str | None) -> None:
    """Make this machine the coordinator of a new mesh.

    Creates the mesh's certificate authority, this coordinator's identity and the database, all below RPCMESH_HOME.
    """
    home = paths.Home(paths.default_home())
    refuse_remains(home)
    chosen = listening.choose(listen, config.GATEWAY_PORT)
    settings = config.Config(mesh=config.Mesh(name=name), coordinator=config.Coordinator(listen=chosen.listen))
    made = founding.found(home, settings, time.time())
    out.print(f"mesh {made.mesh} is founded in {made.home}")
    out.print(f"  endpoint   https://{chosen}")
    for other in chosen.others:
        out.print(f"             not chosen: {other}")
    out.print(f"  CA         {made.ca_file}")
    out.print(f"  CA pin     {made.pin}")
    out.print("next: rpcmesh serve, and for each node: rpcmesh token create --node NAME")
