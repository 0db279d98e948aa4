"""``rpcmesh firewall …``: the rules for this machine, shown and checked. Nothing is loaded."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from typing import Literal

import click

from rpcmesh import config, paths
from rpcmesh.cli.output import err, out
from rpcmesh.errors import RpcmeshError
from rpcmesh.firewall import nft, pf, pf_lint
from rpcmesh.firewall.policy import Policy, for_home
from rpcmesh.pki import identity

Backend = Literal["pf", "nft"]

RENDER = {"pf": pf.render, "nft": nft.render}
# The tool that reads the rules, and how it only checks them.
CHECK = {"pf": ("pfctl", "-a", pf.ANCHOR, "-nf", "-"), "nft": ("nft", "-c", "-f", "-")}
# Both lie in sbin, which an ordinary user's PATH often lacks.
TOOL_PATH = "/usr/sbin:/sbin:/usr/bin:/bin"

backend_option = click.option(
    "--backend",
    type=click.Choice(["pf", "nft"]),
    default="pf" if sys.platform == "darwin" else "nft",
    help="The rule language. Default: the platform's, pf on macOS and nft elsewhere.",
)


@click.group()
def firewall() -> None:
    """Show and check the firewall rules of this machine."""


@firewall.command()
@backend_option
def show(backend: Backend) -> None:
    """Print the rules that let only the configured addresses reach this machine's port."""
    click.echo(RENDER[backend](_policy()), nl=False)


@firewall.command()
@backend_option
def check(backend: Backend) -> None:
    """Check the rules without loading them: pf with our own reader, and both with their tool where it is installed."""
    text = RENDER[backend](_policy())
    if backend == "pf":
        for finding in pf_lint.lint(text):
            raise RpcmeshError(f"line {finding.line} of the pf rules: {finding.message}", hint="rpcmesh firewall show")
        out.print("pf rules: our reader accepts them")
    _check_with_tool(backend, text)


def _policy() -> Policy:
    home = paths.Home(paths.default_home())
    settings = config.load(home.config)
    if home.authority.exists():
        return for_home(settings, "coordinator")
    if not identity.exists(home.identity):
        raise RpcmeshError(
            f"{str(home.root)!r} belongs to no mesh", hint="on a coordinator: rpcmesh init, on a node: rpcmesh join"
        )
    return for_home(settings, "node")


def _check_with_tool(backend: Backend, text: str) -> None:
    name, *arguments = CHECK[backend]
    tool = shutil.which(name, path=TOOL_PATH)
    if tool is None:
        err.print(f"{name} is not on this machine: not checked with it", style="yellow")
        return
    by_hand = f"rpcmesh firewall show --backend {backend} | sudo {shlex.join(CHECK[backend])}"
    if os.geteuid() != 0:
        err.print(f"{name} reads rules as root only: not checked with it. By hand: {by_hand}", style="yellow")
        return
    run = subprocess.run([tool, *arguments], input=text, capture_output=True, text=True, timeout=30, check=False)
    if run.returncode != 0:
        said = (run.stderr.strip() or f"exit status {run.returncode}").splitlines()[0]
        raise RpcmeshError(f"{name} does not accept the rules: {said}", hint=by_hand)
    out.print(f"{backend} rules: {name} accepts them")
