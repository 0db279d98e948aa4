"""``rpcmesh service …``: run a node or the coordinator under systemd or launchd, from the machine's start on."""

from __future__ import annotations

import grp
import os
import pwd
import shlex
import sys
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any

import click

import rpcmesh
from rpcmesh.cli.output import err, out
from rpcmesh.errors import RpcmeshError
from rpcmesh.service_files import carry_out, plan, steps, templates

_HERE: plan.Platform = "macos" if sys.platform == "darwin" else "linux"

Decorated = Callable[..., Any]


def _dry(verb: Decorated) -> Decorated:
    for option in (
        click.option("--dry-run", is_flag=True, help="Print every file and every command; change nothing."),
        click.option("--platform", type=click.Choice(plan.PLATFORMS), help="With --dry-run: for which system."),
    ):
        verb = option(verb)
    return verb


def _role(verb: Decorated) -> Decorated:
    return click.option(
        "--role", type=click.Choice(plan.ROLES), default="node", show_default=True, help="What the service runs."
    )(verb)


@click.group()
def service() -> None:
    """Run a node, the coordinator or the firewall's keeper as a service that starts with the machine."""


@service.command()
@_role
@click.option(
    "--executable", type=click.Path(path_type=PurePosixPath), help="The rpcmesh that it runs. Default: this one."
)
@_dry
def install(role: plan.Role, executable: PurePosixPath | None, platform: plan.Platform | None, dry_run: bool) -> None:
    """Install the service, enable it and start it. Needs root. Again: what differs is changed, and only then restarted.

    It runs as a user of its own, with all its state in one directory, behind the walls that the system offers. The
    firewall's runs as root with few rights, and loads and watches the rules of both others.
    """
    system = _system(platform, dry_run=dry_run)
    if not dry_run:
        carry_out.require_root(_same_command("install", role, executable))
    chosen = executable or _this_program()
    planned = plan.install(system, role, chosen, uid=_user_id(system), render=templates.render)
    problem = plan.out_of_reach(system, [chosen] if executable else [chosen, *_what_we_read()])
    if dry_run:
        _print_plan(planned)
        if problem is not None and system == _HERE:
            err.print(f"note: without --dry-run this is refused: {problem.message}")
        return
    if problem is not None:
        raise problem
    if not os.access(chosen, os.X_OK):
        raise RpcmeshError(f"{str(chosen)!r} is not a program", hint="give the full path: --executable PATH")
    first = role in plan.HOMES and not Path(plan.place(system, role).home / "config.toml").exists()
    if not carry_out.carry_out(planned, _print_done):
        out.print(f"{plan.place(system, role).service} is installed as it should be: nothing changed")
    if first:
        out.print("next:")
        for line in plan.next_steps(system, role, chosen):
            out.print(f"  {line}")


@service.command()
@_role
@_dry
def uninstall(role: plan.Role, platform: plan.Platform | None, dry_run: bool) -> None:
    """Stop the service and remove its files. Needs root. The state directory is left."""
    system = _system(platform, dry_run=dry_run)
    planned = plan.uninstall(system, role, _this_program())
    if dry_run:
        _print_plan(planned)
    else:
        carry_out.require_root(_same_command("uninstall", role))
        if not carry_out.carry_out(planned, _print_done):
            out.print(f"{plan.place(system, role).service} is not installed: nothing changed")
    others = [plan.place(system, other).file for other in plan.HOMES if other != role]
    out.print(plan.left_behind(system, role, other_is_installed=any(Path(file).exists() for file in others)))


@service.command()
@_role
@click.pass_context
def status(context: click.Context, role: plan.Role) -> None:
    """Print the service's state in one line. Exit status 0 when it runs, else 1."""
    ended = carry_out.run(plan.status_command(_HERE, role))
    runs, state = plan.read_status(_HERE, ended.returncode, ended.stdout or ended.stderr)
    out.print(f"{plan.place(_HERE, role).service}: {state}")
    context.exit(0 if runs else 1)


def _system(asked: plan.Platform | None, *, dry_run: bool) -> plan.Platform:
    if asked not in {None, _HERE} and not dry_run:
        raise RpcmeshError(f"this machine is not {asked}", hint="to see what would be done there: --dry-run")
    return asked or _HERE


def _this_program() -> PurePosixPath:
    """``rpcmesh`` beside this interpreter. Links are kept: a virtual environment is found by the path it is run at."""
    return PurePosixPath(os.path.abspath(sys.executable)).with_name("rpcmesh")  # noqa: PTH100 (resolve() follows links)


def _what_we_read() -> list[PurePosixPath]:
    """What the program needs beside itself: the interpreter behind a virtual environment, and this package."""
    return [PurePosixPath(sys.base_prefix), PurePosixPath(*rpcmesh.__path__[:1])]


def _user_id(system: plan.Platform) -> int:
    """On macOS the number of the service's user, or a free one; elsewhere the system chooses."""
    if system != _HERE or system == "linux":
        return plan.MACOS_IDS[0]
    users = {user.pw_name: user.pw_uid for user in pwd.getpwall()}
    ours = users.get(plan.place(system, "node").user)
    return ours if ours is not None else plan.free_id({*users.values(), *(group.gr_gid for group in grp.getgrall())})


def _same_command(verb: str, role: plan.Role, executable: PurePosixPath | None = None) -> str:
    given = ("--executable", str(executable)) if executable else ()
    return shlex.join((str(_this_program()), "service", verb, "--role", role, *given))


def _print_plan(planned: tuple[steps.Step, ...]) -> None:
    for step in planned:
        click.echo(steps.line(step))
        if isinstance(step, steps.WriteFile):
            # Not by rich, which makes spaces of tabs: what is shown is what would be written.
            click.echo("".join(f"  | {text}\n" for text in step.content.splitlines()), nl=False)


def _print_done(step: steps.Step) -> None:
    out.print(steps.line(step).splitlines()[0].partition("  # ")[0].removesuffix(":"))
