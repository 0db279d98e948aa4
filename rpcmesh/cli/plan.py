"""``rpcmesh plan``: which layers of a model would lie where, and with how much context. Loads nothing."""

from __future__ import annotations

import click
import msgspec

from rpcmesh import config, paths
from rpcmesh.cli.output import out, print_json, print_table
from rpcmesh.cli.status import fetch, layer_range
from rpcmesh.coordinator.foreseen import Foreseen, foresee
from rpcmesh.errors import RpcmeshError
from rpcmesh.models import library
from rpcmesh.plan import facts
from rpcmesh.words import size


@click.command(short_help="Show which layers of a model would go where.")
@click.argument("model")
@click.option("--ctx", type=click.IntRange(1), metavar="N", help="Tokens per sequence. Default: as [engine] says.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def plan(model: str, ctx: int | None, as_json: bool) -> None:
    """Show which layers of MODEL would go on which node, as if nothing were loaded.

    Counts the nodes that are up now. Exit status 1 when the model does not fit them.
    """
    home = paths.Home(paths.default_home())
    needs = facts.read(library.find(home, model).path)
    if needs is None:
        raise RpcmeshError(
            f"what model {model!r} needs cannot be told from its header", hint=f"try it: rpcmesh model load {model}"
        )
    engine = config.load(home.config).engine
    if ctx is not None:
        engine = msgspec.structs.replace(engine, n_ctx=ctx, n_ctx_min=0)
    found = foresee(model, needs, engine, fetch())
    if as_json:
        print_json(found)
    else:
        _show(found)
    if not found.fits:
        raise SystemExit(1)


def _show(found: Foreseen) -> None:
    if not found.fits:
        out.print(f"model {found.model} does not fit: {found.reason}")
        return
    out.print(f"model {found.model} fits: {found.n_ctx} tokens for each of {found.n_seq_max} sequences")
    rows = [
        (
            f"{share.node} {share.worker}",
            share.device,
            size(share.free_bytes),
            layer_range(share.layers) + (", output" if share.output else ""),
            size(share.holds_bytes),
        )
        for share in found.devices
    ]
    print_table(("NODE", "DEVICE", "FREE", "LAYERS", "HOLDS"), rows, empty="")
