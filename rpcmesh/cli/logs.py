"""``rpcmesh logs``: the warnings and errors of a node, or of this home."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Any

import click
import msgspec
from rich.text import Text

from rpcmesh import paths
from rpcmesh.cli.output import err, out, plain
from rpcmesh.cli.running import run, stopped_early
from rpcmesh.coordinator import admin
from rpcmesh.errors import RpcmeshError
from rpcmesh.observe import error_log, error_text
from rpcmesh.pki import names

FOLLOW_S = 0.5
SHOWN = 50
_STYLES = {"warning": "yellow", "error": "bold red", "critical": "bold red"}

Read = Callable[[int | None, int], Awaitable[error_log.Page]]


@click.command(short_help="Show the errors of a node, or of this home.")
@click.argument("node", required=False)
@click.option("-f", "--follow", is_flag=True, help="Go on with new ones until Ctrl-C.")
@click.option("--json", "as_json", is_flag=True, help="Print the records as they are, one JSON object a line.")
@click.option(
    "-n",
    "count",
    type=click.IntRange(0, error_log.PAGE_RECORDS),
    default=SHOWN,
    show_default=True,
    help="How many of the last ones.",
)
def logs(node: str | None, follow: bool, as_json: bool, count: int) -> None:
    """Show warnings and errors, the newest last: those of NODE, asked on the coordinator, or else of this home.

    Those of this home are read from its file and are there also when nothing runs.
    """
    home = paths.Home(paths.default_home())
    read = _of_home(home) if node is None else _of_node(home, names.check_name(node, "node"))
    run(stopped_early(_show(read, count, _print_json if as_json else _print_line, follow)))


def _of_home(home: paths.Home) -> Read:
    if not home.root.is_dir():
        raise RpcmeshError(f"there is no home at {str(home.root)!r}", hint="rpcmesh init, or rpcmesh join STRING")

    async def read(after: int | None, last: int) -> error_log.Page:
        path = error_log.path_of(home)
        try:
            return error_log.page(path, after=after, last=last)
        except OSError as error:
            raise RpcmeshError(
                f"cannot read {str(path)!r}: {error.strerror}", hint="run it as the home's owner"
            ) from error

    return read


def _of_node(home: paths.Home, node: str) -> Read:
    client = admin.AdminClient(home.socket(admin.SOCKET_NAME))

    async def read(after: int | None, last: int) -> error_log.Page:
        return await client.errors(node, after, last)

    return read


async def _show(read: Read, count: int, show: Callable[[bytes], None], follow: bool) -> None:
    page = await read(None, count)
    for record in page.records:
        show(bytes(record))
    if not page.records and not follow:
        err.print("no warning and no error was logged", style="dim")
    while follow:
        if not page.more:
            await asyncio.sleep(FOLLOW_S)
        page = await read(page.position, count)
        for record in page.records:
            show(bytes(record))


def _print_json(record: bytes) -> None:
    """On one line also where another machine had it on several."""
    sys.stdout.write(plain(msgspec.json.format(record, indent=-1).decode(errors="replace")) + "\n")
    sys.stdout.flush()


def _print_line(record: bytes) -> None:
    try:
        fields = msgspec.json.decode(record, type=dict[str, Any])
    except msgspec.DecodeError:
        fields = {"event": "unreadable"}
    said = error_text.line(fields, datetime.now().astimezone().date())
    when, level, event, text = (plain(part) for part in (said.when, said.level, said.event, said.text))
    out.print(Text.assemble((when, "dim"), "  ", (level, _STYLES.get(level, "")), "  ", (event, "bold"), "  ", text))
    sys.stdout.flush()
