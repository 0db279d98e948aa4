"""``rpcmesh model …``: the model files that this coordinator knows."""

from __future__ import annotations

from pathlib import Path

import click

from rpcmesh import paths
from rpcmesh.cli import progress
from rpcmesh.cli.output import out, print_json, print_table
from rpcmesh.models import catalog, library
from rpcmesh.words import size


@click.group()
def model() -> None:
    """Fetch, add and list model files (GGUF)."""


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
