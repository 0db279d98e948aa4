"""``--json FILE`` of the benchmarks: asked for before anything is measured, written when all is."""

from __future__ import annotations

import os
from pathlib import Path

import click
import msgspec

from rpcmesh.cli.output import out
from rpcmesh.errors import RpcmeshError

JSON_FILE = click.option(
    "--json",
    "json_file",
    type=click.Path(path_type=Path, dir_okay=False, writable=True),
    help="Write the figures here too.",
)


def require_writable(json_file: Path | None) -> None:
    """Raises :class:`RpcmeshError` now for what could not be written in the end."""
    if json_file is not None and not os.access(json_file.absolute().parent, os.W_OK):
        raise RpcmeshError(
            f"cannot write {str(json_file)!r}: its directory is missing or not yours", hint="choose another --json FILE"
        )


def write(figures: msgspec.Struct, json_file: Path | None) -> None:
    if json_file is not None:
        json_file.write_bytes(msgspec.json.format(msgspec.json.encode(figures), indent=2) + b"\n")
        out.print(f"written: {json_file}")
