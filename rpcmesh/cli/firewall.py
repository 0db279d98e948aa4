"""``rpcmesh firewall …``: the rules for this machine, shown, checked, loaded and taken away."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from pathlib import Path

import click

from rpcmesh import config, paths
from rpcmesh.cli.duration import DURATION
from rpcmesh.cli.output import err, out
from rpcmesh.errors import RpcmeshError
from rpcmesh.firewall import loading, nft, pf, pf_lint
from rpcmesh.firewall.loaded import TOOLS, Backend
from rpcmesh.firewall.loading import TOOL_PATH
from rpcmesh.firewall.policy import Policy, for_home
from rpcmesh.pki import role

RENDER = {"pf": pf.render, "nft": nft.render}

backend_option = click.option(
    "--backend",
    type=click.Choice(["pf", "nft"]),
    default="pf" if sys.platform == "darwin" else "nft",
    help="The rule language. Default: the platform's, pf on macOS and nft elsewhere.",
)


@click.group()
def firewall() -> None:
    """Show, check, load and remove the firewall rules of this machine."""


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


@firewall.command()
@backend_option
@click.option(
    "--confirm-within",
    type=DURATION,
    metavar="TIME",
    help="Ask for Enter within this time, as 60s, and else bring the former rules back.",
)
def apply(backend: Backend, confirm_within: float | None) -> None:
    """Load the rules in one step, in place of those that were loaded before. Needs root."""
    _require_root("apply", backend)

    def confirmed() -> bool:
        if confirm_within is None:
            return True
        err.print(f"the rules are loaded: press Enter within {confirm_within:g} s to keep them", style="bold")
        return loading.enter_within(confirm_within)

    loading.apply(backend, _home(), RENDER[backend](_policy()), confirmed)
    out.print(f"{backend} rules: loaded until the next start of this machine")


@firewall.command()
@backend_option
def verify(backend: Backend) -> None:
    """Exit with 0 when the loaded rules are those that the settings mean, else say what differs. Needs root."""
    _require_root("verify", backend)
    verdict = loading.verify(backend, _home(), RENDER[backend](_policy()))
    if verdict.problem:
        raise RpcmeshError(verdict.problem, hint=verdict.hint)
    out.print(f"{backend} rules: loaded, and as the settings mean them")


@firewall.command()
@backend_option
def remove(backend: Backend) -> None:
    """Take the loaded rules away, and leave everybody else's. Needs root."""
    _require_root("remove", backend)
    removed = loading.remove(backend, _home())
    out.print(f"{backend} rules: {'removed' if removed else 'there were none'}")


def _home() -> Path:
    return paths.default_home()


def _require_root(verb: str, backend: Backend) -> None:
    if os.geteuid() == 0:
        return
    # sudo forgets the environment, and root's own home is another one.
    rpcmesh = shutil.which("rpcmesh") or "rpcmesh"
    by_root = ["sudo", "env", f"RPCMESH_HOME={_home()}", rpcmesh, "firewall", verb, "--backend", backend]
    raise RpcmeshError("the firewall belongs to the machine: this needs root", hint=shlex.join(by_root))


def _policy() -> Policy:
    home = paths.Home(paths.default_home())
    settings = config.load(home.config)
    found = role.of(home)
    if found == "none":
        raise RpcmeshError(
            f"{str(home.root)!r} belongs to no mesh", hint="on a coordinator: rpcmesh init, on a node: rpcmesh join"
        )
    return for_home(settings, found)


def _check_with_tool(backend: Backend, text: str) -> None:
    check_only = TOOLS[backend].check(text)
    name = check_only.argv[0]
    if shutil.which(name, path=TOOL_PATH) is None:
        err.print(f"{name} is not on this machine: not checked with it", style="yellow")
        return
    by_hand = f"rpcmesh firewall show --backend {backend} | sudo {shlex.join(check_only.argv)}"
    if os.geteuid() != 0:
        err.print(f"{name} reads rules as root only: not checked with it. By hand: {by_hand}", style="yellow")
        return
    complaint = loading.complaint(check_only)
    if complaint:
        raise RpcmeshError(f"{name} does not accept the rules: {complaint}", hint=by_hand)
    out.print(f"{backend} rules: {name} accepts them")
