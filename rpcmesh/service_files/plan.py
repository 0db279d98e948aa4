"""Which steps install or uninstall a service. Pure: nothing here reads the machine or changes it."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable
from pathlib import PurePosixPath
from typing import Any, Literal

import msgspec

from rpcmesh import config
from rpcmesh.errors import RpcmeshError
from rpcmesh.service_files.steps import MakeDirectory, MakeUser, Remove, Run, Step, WaitUntilFails, WriteFile, owner

Platform = Literal["linux", "macos"]
Role = Literal["node", "coordinator", "firewall"]
# (template's file name below deploy/, its variables) -> text
Render = Callable[[str, dict[str, Any]], str]

PLATFORMS: tuple[Platform, ...] = ("linux", "macos")
# Those that have a home of their own; the firewall's service works on theirs.
HOMES: tuple[Role, ...] = ("node", "coordinator")
ROLES: tuple[Role, ...] = (*HOMES, "firewall")

# Below 500 macOS hides an account; Apple's own end far below.
MACOS_IDS = range(478, 400, -1)
# What the service files allow for an orderly stop: it takes up to 20 s, and a coordinator lets open answers end before.
STOP_S: dict[Role, int] = {"node": 30, "coordinator": 30 + int(config.DRAIN_MAX_S), "firewall": 30}
# How much longer is waited for the service manager to have done it.
STOP_SLACK_S = 10.0

# The service's own walls keep it out of these: ProtectHome and PrivateTmp on Linux, modes of home directories on macOS.
_OUT_OF_REACH: dict[Platform, tuple[str, ...]] = {
    "linux": ("/home", "/root", "/run/user", "/tmp", "/var/tmp"),  # noqa: S108 (these are refused)
    "macos": ("/Users", "/private/tmp", "/tmp", "/var/root", "/private/var/root"),  # noqa: S108
}
# What systemd reads in a command line as it stands, without quotes, specifiers or variables.
_PLAIN_PATH = re.compile(r"/[A-Za-z0-9._+@:=,~/-]+")


class Place(msgspec.Struct, frozen=True):
    """Where one service's files lie, and the user that owns the state. All but the firewall's run as that user."""

    service: str
    file: PurePosixPath
    template: str
    user: str
    state: PurePosixPath
    home: PurePosixPath
    cache: PurePosixPath
    # Where standard error goes; None: to the journal.
    log: PurePosixPath | None = None
    log_owner: str = ""


def place(platform: Platform, role: Role) -> Place:
    """The fixed places of ``role``'s service."""
    match platform:
        case "linux":
            service, state, user = f"rpcmesh-{role}.service", PurePosixPath("/var/lib/rpcmesh"), "rpcmesh"
            file, log = PurePosixPath("/etc/systemd/system", service), None
        case "macos":
            service, state, user = f"dev.rpcmesh.{role}", PurePosixPath("/var/db/rpcmesh"), "_rpcmesh"
            file = PurePosixPath("/Library/LaunchDaemons", f"{service}.plist")
            log = PurePosixPath("/usr/local/var/log/rpcmesh", role, "stderr.log")
    log_owner = "root:wheel" if role == "firewall" else owner(user)
    return Place(service, file, f"{file.name}.j2", user, state, state / role, state / "cache", log, log_owner)


def install(platform: Platform, role: Role, executable: PurePosixPath, *, uid: int, render: Render) -> tuple[Step, ...]:
    """The steps, in order. ``uid`` is the user's number on macOS, where whoever makes an account chooses one.

    Raises :class:`RpcmeshError` for an ``executable`` that a service file cannot name.
    """
    at = place(platform, role)
    if not _PLAIN_PATH.fullmatch(str(executable)):
        raise RpcmeshError(
            f"a service file cannot name {str(executable)!r}",
            hint="choose a full path of letters, digits, dots and dashes: --executable /opt/rpcmesh/bin/rpcmesh",
        )
    names = {
        "role": role,
        "executable": executable,
        "stop_s": STOP_S[role],
        "homes": [place(platform, other).home for other in HOMES],
        **{field: getattr(at, field) for field in ("service", "user", "state", "home", "cache", "log", "log_owner")},
    }
    own = (at.home, at.cache) if role in HOMES else ()
    state = [MakeDirectory(path, 0o700, owner(at.user)) for path in (at.state, *own)]
    file = render(at.template, names)
    if platform == "linux":
        return _linux_install(at, state, file, role=role)
    return _macos_install(at, state, file, render("newsyslog.rpcmesh.conf.j2", names), role=role, uid=uid)


def uninstall(platform: Platform, role: Role, executable: PurePosixPath) -> tuple[Step, ...]:
    """The steps that leave nothing but what :func:`left_behind` names. ``executable`` takes loaded rules away."""
    at = place(platform, role)
    stopped = _linux_uninstall(at) if platform == "linux" else _macos_uninstall(at, role)
    return stopped if role in HOMES else (*stopped, *_without_rules(platform, executable))


def out_of_reach(platform: Platform, needed: Iterable[PurePosixPath]) -> RpcmeshError | None:
    """The error to raise when a service could not read one of ``needed``: its program, its interpreter, its package."""
    for path in needed:
        for wall in _OUT_OF_REACH[platform]:
            if path.is_relative_to(wall):
                return RpcmeshError(
                    f"{str(path)!r} is out of a service's reach: nothing below {wall} is",
                    hint="install rpcmesh below /opt: sudo python3 -m venv /opt/rpcmesh, then run its rpcmesh",
                )
    return None


def free_id(taken: Collection[int]) -> int:
    """A number for the macOS account that neither a user nor a group has."""
    for number in MACOS_IDS:
        if number not in taken:
            return number
    raise RpcmeshError(f"all user numbers from {MACOS_IDS[-1]} to {MACOS_IDS[0]} are taken")


def as_user(platform: Platform, role: Role, executable: PurePosixPath, *verb: str) -> str:
    """The command line with which an admin runs a verb of rpcmesh on the service's own state."""
    at = place(platform, role)
    surroundings = f"RPCMESH_HOME={at.home} RPCMESH_CACHE={at.cache}"
    return f"cd / && sudo -H -u {at.user} env {surroundings} {executable} {' '.join(verb)}"


def next_steps(platform: Platform, role: Role, executable: PurePosixPath) -> tuple[str, ...]:
    """What is left to do by hand after the first install: compile, and join or found a mesh."""
    if role == "firewall":
        return ()
    at = place(platform, role)
    begin = ("join", "STRING") if role == "node" else ("init",)
    start = f"systemctl restart {at.service}" if platform == "linux" else f"launchctl kickstart -k system/{at.service}"
    return (
        as_user(platform, role, executable, "build"),
        as_user(platform, role, executable, *begin),
        f"sudo {start}",
    )


def left_behind(platform: Platform, role: Role, *, other_is_installed: bool) -> str:
    """What uninstalling ``role`` leaves, why, and how to be rid of it, unless the other role's service needs it too."""
    at = place(platform, role)
    if other_is_installed and role == "firewall":
        return "nothing is left of it, in the kernel neither"
    if other_is_installed:
        return f"{at.home} is left: keys and models lie there\nto remove it as well: sudo rm -r {at.home}"
    # The user goes only after its files: the next account could get the same number, and with it the keys.
    forget = (
        f"sudo userdel {at.user}"
        if platform == "linux"
        else f"sudo dscl . -delete /Users/{at.user} && sudo dscl . -delete /Groups/{at.user}"
    )
    return (
        f"{at.state} is left, and so is its owner {at.user}: keys, models and builds lie there\n"
        f"to remove both: sudo rm -r {at.state} && {forget}"
    )


def status_command(platform: Platform, role: Role) -> tuple[str, ...]:
    """What to ask the service manager."""
    at = place(platform, role)
    return ("systemctl", "is-active", at.service) if platform == "linux" else _print(at)


def read_status(platform: Platform, code: int, output: str) -> tuple[bool, str]:
    """Whether the service runs, and its state in the service manager's own word."""
    if platform == "linux":
        return code == 0, output.strip().partition("\n")[0] or "unknown"
    if code != 0:
        return False, "not loaded"
    found = re.search(r"^\tstate = (.+)$", output, re.MULTILINE)
    state = found[1].strip() if found else "unknown"
    return state == "running", state


def _without_rules(platform: Platform, executable: PurePosixPath) -> tuple[Step, ...]:
    homes = [place(platform, role).home for role in HOMES]
    return tuple(
        Run(
            ("env", f"RPCMESH_HOME={home}", str(executable), "firewall", "remove"),
            only_if=("test", "-e", str(home / "firewall.json")),
        )
        for home in homes
    )


def _linux_install(at: Place, state: list[MakeDirectory], unit: str, *, role: Role) -> tuple[Step, ...]:
    useradd = ("/usr/sbin/useradd", "--system", "--user-group", "--no-create-home", "--home-dir", str(at.state))
    return (
        MakeUser(at.user, ((*useradd, "--shell", "/usr/sbin/nologin", at.user),)),
        *state,
        WriteFile(at.file, 0o644, "root:root", unit),
        Run(("systemctl", "daemon-reload"), after_change=True),
        Run(("systemctl", "enable", at.service), unless=("systemctl", "is-enabled", "--quiet", at.service)),
        Run(("systemctl", "try-restart", at.service), after_change=True),
        # Before it has an identity it would not start: see ConditionPathExists in the unit.
        Run(
            ("systemctl", "start", at.service),
            only_if=("test", "-e", str(at.home / "identity" / "cert.pem")) if role in HOMES else (),
            unless=("systemctl", "is-active", "--quiet", at.service),
        ),
    )


def _linux_uninstall(at: Place) -> tuple[Step, ...]:
    return (
        Run(("systemctl", "disable", "--now", at.service), only_if=("systemctl", "cat", at.service)),
        Run(("systemctl", "reset-failed", at.service), only_if=("systemctl", "is-failed", "--quiet", at.service)),
        Remove(at.file),
        Remove(at.file.with_name(f"{at.file.name}.d"), "tree"),
        Run(("systemctl", "daemon-reload"), after_change=True),
    )


def _macos_install(
    at: Place, state: list[MakeDirectory], plist: str, rotation: str, *, role: Role, uid: int
) -> tuple[Step, ...]:
    assert at.log is not None  # noqa: S101 (macOS has no journal)
    return (
        MakeUser(at.user, _macos_account(at, uid)),
        *state,
        # launchd does not start a job whose log has no directory.
        MakeDirectory(at.log.parent, 0o700, at.log_owner),
        WriteFile(at.file, 0o644, "root:wheel", plist),
        # launchd reads a property list when it is loaded, never again; unloading goes on after bootout has returned.
        Run(("launchctl", "bootout", f"system/{at.service}"), after_change=True, only_if=_print(at)),
        WaitUntilFails(_print(at), STOP_S[role] + STOP_SLACK_S, after_change=True),
        Run(("launchctl", "enable", f"system/{at.service}"), unless=_print(at)),
        Run(("launchctl", "bootstrap", "system", str(at.file)), unless=_print(at)),
        # Last: newsyslog reads it on its next round, and nothing need be restarted for it.
        WriteFile(_rotation(role), 0o644, "root:wheel", rotation),
    )


def _macos_uninstall(at: Place, role: Role) -> tuple[Step, ...]:
    assert at.log is not None  # noqa: S101 (macOS has no journal)
    return (
        Run(("launchctl", "bootout", f"system/{at.service}"), only_if=_print(at)),
        WaitUntilFails(_print(at), STOP_S[role] + STOP_SLACK_S),
        Remove(at.file),
        Remove(_rotation(role)),
        Remove(at.log.parent, "tree"),
        Remove(at.log.parent.parent, "empty directory"),
    )


def _macos_account(at: Place, uid: int) -> tuple[tuple[str, ...], ...]:
    """UniqueID comes last: until then the user does not exist, and an interrupted attempt is made again in full."""
    group, user = f"/Groups/{at.user}", f"/Users/{at.user}"
    attributes = (
        (group, "Password", "*"),
        (group, "PrimaryGroupID", str(uid)),
        (user, "IsHidden", "1"),
        (user, "Password", "*"),
        (user, "RealName", "rpcmesh"),
        (user, "NFSHomeDirectory", "/var/empty"),
        (user, "UserShell", "/usr/bin/false"),
        (user, "PrimaryGroupID", str(uid)),
        (user, "UniqueID", str(uid)),
    )
    return (
        *(("dscl", ".", "-create", *attribute) for attribute in attributes),
        # What was not there a moment ago is remembered as missing.
        ("dscacheutil", "-flushcache"),
    )


def _print(at: Place) -> tuple[str, ...]:
    return ("launchctl", "print", f"system/{at.service}")


def _rotation(role: Role) -> PurePosixPath:
    return PurePosixPath("/etc/newsyslog.d", f"rpcmesh-{role}.conf")
