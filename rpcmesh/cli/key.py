"""``rpcmesh key …``: API keys for clients of the HTTPS endpoint."""

from __future__ import annotations

import time
from datetime import UTC, datetime

import click

from rpcmesh import paths
from rpcmesh.cli.duration import DURATION
from rpcmesh.cli.output import err, out, print_json, print_table
from rpcmesh.coordinator import founding
from rpcmesh.gateway import keys


@click.group()
def key() -> None:
    """Make, list and revoke API keys."""


@key.command()
@click.option("--name", default="", help="Who or what it is for.")
@click.option("--models", default="", help="Comma-separated model names it may use. Default: all.")
@click.option("--expires", type=DURATION, help="How long it is good for, for example 30d. Default: until revoked.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def create(name: str, models: str, expires: float | None, as_json: bool) -> None:
    """Print a new API key. It is shown once: only its hash is kept."""
    now = time.time()
    until = now + expires if expires is not None else None
    secret, made = keys.mint(name, now, until, tuple(part for part in models.split(",") if part))
    with founding.open_mesh(paths.Home(paths.default_home())) as mesh:
        mesh.store.add_key(made, founding.ACTOR, now)
    if as_json:
        print_json({"id": made.id, "name": name, "api_key": secret, "expires_at": until, "models": made.models})
        return
    out.print(secret)
    err.print(f"id {made.id}; shown once. To take it back: rpcmesh key revoke {made.id}", style="dim")


@key.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def ls(as_json: bool) -> None:
    """List the API keys, without their secrets."""
    now = time.time()
    with founding.open_mesh(paths.Home(paths.default_home())) as mesh:
        known = mesh.store.keys()
    if as_json:
        fields = ("id", "name", "created_at", "expires_at", "revoked_at", "models")
        print_json([{field: getattr(one, field) for field in fields} for one in known])
        return
    rows = [
        (
            one.id,
            one.name or "-",
            _day(one.created_at),
            keys.ended(one, now) or "good",
            _day(one.expires_at),
            ",".join(one.models) or "all",
        )
        for one in known
    ]
    print_table(("ID", "NAME", "CREATED", "STATE", "EXPIRES", "MODELS"), rows, empty="no key yet: rpcmesh key create")


@key.command()
@click.argument("key_id", metavar="ID")
def revoke(key_id: str) -> None:
    """Take an API key back. It stops working with the next request."""
    with founding.open_mesh(paths.Home(paths.default_home())) as mesh:
        mesh.store.revoke_key(key_id, founding.ACTOR, time.time())
    out.print(f"key {key_id} is revoked")


def _day(at: float | None) -> str:
    return "-" if at is None else datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d")
