"""``rpcmesh model …``: the model files that this coordinator knows, and which one it serves."""

from __future__ import annotations

import asyncio
from pathlib import Path

import click

from rpcmesh import paths
from rpcmesh.cli import progress
from rpcmesh.cli.output import out, print_json, print_table
from rpcmesh.cli.status import model_line
from rpcmesh.coordinator import admin
from rpcmesh.coordinator.report import ModelReport
from rpcmesh.errors import RpcmeshError
from rpcmesh.models import catalog, library
from rpcmesh.words import size

POLL_S = 0.2


@click.group()
def model() -> None:
    """Fetch, add, list and load model files (GGUF)."""


@model.command()
@click.argument("name")
def pull(name: str) -> None:
    """Download a model that rpcmesh knows by NAME, check its hash, and add it."""
    with progress.task(f"model {name}") as report:
        file = catalog.pull(name, paths.default_cache(), report)
    added = library.add(paths.Home(paths.default_home()).ensure(), file, name)
    out.print(f"model {added.name} is ready: {size(added.size_bytes)}")


@model.command()
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--name", help="What to call it. Default: the file's name without .gguf.")
def add(path: Path, name: str | None) -> None:
    """Check the GGUF file at PATH and make it known. The file stays where it is."""
    added = library.add(paths.Home(paths.default_home()).ensure(), path, name)
    out.print(f"model {added.name} is ready: {size(added.size_bytes)}")


@model.command()
@click.argument("name")
@click.option("--force", is_flag=True, help="Also when answers of another model are open: they end with an error.")
@click.option("--no-wait", is_flag=True, help="Do not wait until the model answers.")
def load(name: str, force: bool, no_wait: bool) -> None:
    """Have the running coordinator load model NAME now, over all workers that are ready.

    Open answers of the same model pause and go on. [engine] model says what is loaded at the next start.
    """
    home = paths.Home(paths.default_home())
    coordinator = admin.AdminClient(home.socket(admin.SOCKET_NAME))
    loaded = asyncio.run(_load(coordinator, name, force, no_wait))
    out.print(model_line(loaded))
    if not no_wait and loaded.state != "ready":
        raise RpcmeshError(f"model {name!r} is {loaded.state}: {loaded.reason}", hint="rpcmesh status")


async def _load(coordinator: admin.AdminClient, name: str, force: bool, no_wait: bool) -> ModelReport:
    """How it stands in the end: ready, or else waiting for workers or failed."""
    await coordinator.load(name, force=force)
    while True:
        found = (await coordinator.status()).model
        if no_wait or (found.wanted is None and found.state != "loading"):
            return found
        await asyncio.sleep(POLL_S)


@model.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def ls(as_json: bool) -> None:
    """List the known models, and those that can be pulled."""
    home = paths.Home(paths.default_home())
    here = library.ls(home)
    if as_json:
        print_json(here)
        return
    rows = [(entry.name, size(entry.size_bytes), entry.path, entry.problem or "-") for entry in here]
    print_table(("NAME", "SIZE", "FILE", "PROBLEM"), rows, empty="no model yet")
    for entry in catalog.CATALOG.values():
        if entry.name not in library.names(home):
            weight = size(entry.size_bytes)
            out.print(
                f"to fetch {entry.name} ({weight}, {entry.license}; {entry.about}): rpcmesh model pull {entry.name}"
            )
