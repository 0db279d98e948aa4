"""``rpcmesh doctor``: what is wrong here, and the command that mends it."""

from __future__ import annotations

import click
from rich.table import Table
from rich.text import Text

from rpcmesh import paths
from rpcmesh.cli.output import err, out, plain, print_json
from rpcmesh.doctor import rows
from rpcmesh.doctor.checks.home import repairs
from rpcmesh.doctor.findings import Finding
from rpcmesh.doctor.gather.everything import gather
from rpcmesh.doctor.mending import mend

_STYLES = {"ok": "green", "warn": "yellow", "fail": "bold red"}


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON.")
@click.option("--fix", is_flag=True, help="Do the repairs that cannot do harm (chmod), then look again.")
def doctor(as_json: bool, fix: bool) -> None:
    """Look for what is wrong with this machine's part of the mesh, and say what mends it.

    On a coordinator this measures the links to its nodes, each for a second or so. Exit status 0 when nothing
    fails, 1 otherwise. Nothing is changed without --fix.
    """
    home, cache = paths.Home(paths.default_home()), paths.default_cache()
    facts = gather(home, cache)
    if fix and (mendable := repairs(facts)):
        for repair in mendable:
            mend(repair)
            err.print(f"done: {plain(repair.command)}")
        facts = gather(home, cache)
    findings = rows.examine(facts)
    if as_json:
        print_json(findings)
    else:
        show(findings)
    if not rows.healthy(findings):
        raise SystemExit(1)


def show(findings: tuple[Finding, ...]) -> None:
    """Print ``findings`` for people."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("CHECK", "RESULT", "WHAT", "FIX"):
        table.add_column(column, overflow="fold")
    for finding in findings:
        result = Text(finding.level, style=_STYLES[finding.level])
        table.add_row(finding.check, result, plain(finding.message), plain(finding.fix or "-"))
    out.print(table)
