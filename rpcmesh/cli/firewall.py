"""``rpcmesh firewall …``: the rules for this machine, shown, checked, loaded, kept and taken away."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import sys
import threading
from pathlib import Path

import click

from rpcmesh import paths
from rpcmesh.cli.duration import DURATION
from rpcmesh.cli.output import err, out
from rpcmesh.errors import RpcmeshError
from rpcmesh.firewall import commands, keeper, loading, owner, pf_lint, probe
from rpcmesh.firewall.loaded import Backend, tool
from rpcmesh.observe import logs

backend_option = click.option(
    "--backend",
    type=click.Choice(["pf", "nft"]),
    default="pf" if sys.platform == "darwin" else "nft",
    help="The rule language. Default: the platform's, pf on macOS and nft elsewhere.",
)


@click.group()
def firewall() -> None:
    """Show, check, load, keep and remove the firewall rules of this machine."""


@firewall.command()
@backend_option
def show(backend: Backend) -> None:
    """Print the rules that let only the mesh's addresses reach this machine's port."""
    click.echo(owner.meant(_home(), backend).rules.text, nl=False)


@firewall.command()
@backend_option
def check(backend: Backend) -> None:
    """Check the rules without loading them: pf with our own reader, and both with their tool where it is installed."""
    rules = owner.meant(_home(), backend).rules
    if backend == "pf":
        for finding in pf_lint.lint(rules.text):
            raise RpcmeshError(f"line {finding.line} of the pf rules: {finding.message}", hint="rpcmesh firewall show")
        out.print("pf rules: our reader accepts them")
    check_only = tool(backend, rules.role).check(rules.text)
    name = check_only.argv[0]
    if shutil.which(name, path=commands.TOOL_PATH) is None:
        err.print(f"{name} is not on this machine: not checked with it", style="yellow")
        return
    by_hand = f"rpcmesh firewall show --backend {backend} | sudo {shlex.join(check_only.argv)}"
    if os.geteuid() != 0:
        err.print(f"{name} reads rules as root only: not checked with it. By hand: {by_hand}", style="yellow")
        return
    complaint = commands.complaint(check_only)
    if complaint:
        raise RpcmeshError(f"{name} does not accept the rules: {complaint}", hint=by_hand)
    out.print(f"{backend} rules: {name} accepts them")


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

    home = _home()
    with owner.changing(home):
        loading.apply(backend, home, owner.meant(home, backend).rules, confirmed)
    out.print(f"{backend} rules: loaded until the next start of this machine")


@firewall.command()
@backend_option
@click.option("--probe/--no-probe", "probing", default=True, help="Try to connect as a stranger too (Linux).")
def verify(backend: Backend, probing: bool) -> None:
    """Exit with 0 when the loaded rules are those that are meant now, else say what differs. Needs root.

    On Linux a stranger, in a network of his own beside this machine, then tries to connect and must not get through.
    """
    _require_root("verify", backend)
    home = _home()
    meant = owner.meant(home, backend)
    verdict = loading.verify(backend, home, meant.rules)
    if verdict.problem:
        raise RpcmeshError(verdict.problem, hint=verdict.hint)
    out.print(f"{backend} rules: loaded, and as they are meant")
    if probing:
        out.print(probe.try_as_stranger(meant.policy, meant.host))


@firewall.command()
@backend_option
def remove(backend: Backend) -> None:
    """Take the loaded rules away, and leave everybody else's. Needs root."""
    _require_root("remove", backend)
    home = _home()
    with owner.changing(home):
        removed = loading.remove(backend, home, owner.role_of(home))
    out.print(f"{backend} rules: {'removed' if removed else 'there were none'}")


@firewall.command()
@backend_option
@click.argument("homes", nargs=-1, type=click.Path(path_type=Path), metavar="[HOME]...")
def keep(backend: Backend, homes: tuple[Path, ...]) -> None:
    """Load the rules, follow the mesh's addresses, and look every 30 seconds. Needs root; stays in the foreground.

    HOMEs are state directories of this machine's services, by default RPCMESH_HOME. The rules stay when this stops.
    """
    _require_root("keep", backend)
    logs.configure()
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    keeper.keep([home.absolute() for home in homes] or [_home()], backend, stop, keeper.tell_systemd)


def _home() -> Path:
    return paths.default_home()


def _require_root(verb: str, backend: Backend) -> None:
    if os.geteuid() == 0:
        return
    # sudo forgets the environment, and root's own home is another one.
    rpcmesh = shutil.which("rpcmesh") or "rpcmesh"
    by_root = ["sudo", "env", f"RPCMESH_HOME={_home()}", rpcmesh, "firewall", verb, "--backend", backend]
    raise RpcmeshError("the firewall belongs to the machine: this needs root", hint=shlex.join(by_root))
