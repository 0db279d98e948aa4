"""What would be written and run, byte for byte against tests/golden/service. UPDATE_GOLDENS=1 rewrites those files.

The golden files are what a reviewer reads; the system's own tools say whether they are valid.
"""

from __future__ import annotations

import os
import plistlib
import shutil
import subprocess
from pathlib import Path, PurePosixPath
from typing import Any

import pytest
from click.testing import CliRunner

from rpcmesh import paths
from rpcmesh.cli import main
from rpcmesh.errors import RpcmeshError
from rpcmesh.service_files import plan, steps, templates

GOLDEN = Path(__file__).parents[2] / "golden" / "service"
EXECUTABLE = PurePosixPath("/opt/rpcmesh/bin/rpcmesh")

every_role = pytest.mark.parametrize("role", plan.ROLES)
both_roles = pytest.mark.parametrize("role", plan.HOMES)
both_platforms = pytest.mark.parametrize("platform", plan.PLATFORMS)
needs_systemd = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed (Debian: apt-get install systemd)"
)


def install(platform: plan.Platform, role: plan.Role, executable: PurePosixPath = EXECUTABLE) -> tuple[steps.Step, ...]:
    return plan.install(platform, role, executable, uid=478, render=templates.render)


def written(platform: plan.Platform, role: plan.Role, executable: PurePosixPath = EXECUTABLE) -> dict[str, str]:
    """Each file's name and content."""
    files = [step for step in install(platform, role, executable) if isinstance(step, steps.WriteFile)]
    return {step.path.name: step.content for step in files}


def assert_golden(name: str, text: str) -> None:
    path = GOLDEN / name
    if os.environ.get("UPDATE_GOLDENS") == "1":
        path.write_text(text)
    assert path.read_bytes() == text.encode(), f"{name} differs; if that is meant: UPDATE_GOLDENS=1"


@both_platforms
@every_role
def test_files_are_the_golden_ones(platform: plan.Platform, role: plan.Role) -> None:
    for name, content in written(platform, role).items():
        assert_golden(name, content)


@both_platforms
@every_role
def test_steps_are_the_golden_ones(platform: plan.Platform, role: plan.Role) -> None:
    for action, planned in (
        ("install", install(platform, role)),
        ("uninstall", plan.uninstall(platform, role, EXECUTABLE)),
    ):
        assert_golden(f"{platform}-{role}-{action}.txt", "".join(f"{steps.line(step)}\n" for step in planned))


def test_no_golden_file_is_stale() -> None:
    made = {name for platform in plan.PLATFORMS for role in plan.ROLES for name in written(platform, role)}
    texts = {
        f"{platform}-{role}-{a}.txt"
        for platform in plan.PLATFORMS
        for role in plan.ROLES
        for a in ("install", "uninstall")
    }
    assert {path.name for path in GOLDEN.iterdir()} == made | texts


@both_platforms
@every_role
def test_uninstall_removes_every_file_that_install_writes(platform: plan.Platform, role: plan.Role) -> None:
    removed = {step.path for step in plan.uninstall(platform, role, EXECUTABLE) if isinstance(step, steps.Remove)}
    assert {step.path for step in install(platform, role) if isinstance(step, steps.WriteFile)} <= removed


@both_platforms
@every_role
def test_uninstall_leaves_the_state_directory_and_the_other_role_alone(
    platform: plan.Platform, role: plan.Role
) -> None:
    others = [other for other in plan.ROLES if other != role]
    kept = {step.path for other in others for step in install(platform, other) if isinstance(step, steps.WriteFile)}
    kept |= {plan.place(platform, role).state, plan.place(platform, role).home}
    trees = [
        step.path
        for step in plan.uninstall(platform, role, EXECUTABLE)
        if isinstance(step, steps.Remove) and step.what != "empty directory"
    ]
    assert not [(path, tree) for path in kept for tree in trees if path.is_relative_to(tree)]


@both_platforms
def test_no_two_roles_share_a_file(platform: plan.Platform) -> None:
    names = [name for role in plan.ROLES for name in written(platform, role)]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("path", ["rpcmesh", "/opt/my mesh/rpcmesh", "/opt/%h/rpcmesh", "/opt/$X/rpcmesh", "/opt/a\nb"])
@both_platforms
def test_an_executable_that_a_unit_would_read_otherwise_is_refused(platform: plan.Platform, path: str) -> None:
    with pytest.raises(RpcmeshError, match="a service file cannot name"):
        install(platform, "node", PurePosixPath(path))


@pytest.mark.parametrize(
    ("platform", "path", "wall"),
    [
        ("linux", "/home/ada/.venv/bin/rpcmesh", "/home"),
        ("linux", "/root/.venv/bin/rpcmesh", "/root"),
        ("linux", "/opt/rpcmesh/bin/rpcmesh", None),
        ("linux", "/homes/rpcmesh", None),
        ("macos", "/Users/ada/.venv/bin/rpcmesh", "/Users"),
        ("macos", "/opt/homebrew/bin/rpcmesh", None),
    ],
)
def test_what_lies_behind_the_walls_is_out_of_reach(platform: plan.Platform, path: str, wall: str | None) -> None:
    problem = plan.out_of_reach(platform, [PurePosixPath("/opt/rpcmesh"), PurePosixPath(path)])
    assert (problem.message if problem else None) == (
        f"{path!r} is out of a service's reach: nothing below {wall} is" if wall else None
    )


def test_a_macos_account_gets_the_first_number_that_is_free() -> None:
    assert plan.free_id({0, 501}) == 478
    assert plan.free_id({478, 477}) == 476


@pytest.mark.parametrize(
    ("platform", "code", "output", "expected"),
    [
        ("linux", 0, "active\n", (True, "active")),
        ("linux", 3, "failed\n", (False, "failed")),
        ("macos", 0, "system/dev.rpcmesh.node = {\n\tactive count = 1\n\tstate = running\n}\n", (True, "running")),
        ("macos", 0, "system/dev.rpcmesh.node = {\n\tstate = spawn scheduled\n}\n", (False, "spawn scheduled")),
        ("macos", 113, "", (False, "not loaded")),
    ],
)
def test_the_service_managers_answer_is_read(
    platform: plan.Platform, code: int, output: str, expected: tuple[bool, str]
) -> None:
    assert plan.read_status(platform, code, output) == expected


def test_what_the_other_role_still_needs_is_not_offered_for_removal() -> None:
    alone = plan.left_behind("linux", "node", other_is_installed=False)
    assert "sudo rm -r /var/lib/rpcmesh && sudo userdel rpcmesh" in alone
    beside = plan.left_behind("linux", "node", other_is_installed=True)
    assert beside.endswith("sudo rm -r /var/lib/rpcmesh/node")


@both_roles
def test_a_unit_waits_for_the_certificate_that_joining_or_founding_writes(role: plan.Role) -> None:
    home = paths.Home(Path(plan.place("linux", role).home))
    condition = f"ConditionPathExists={home.identity / 'cert.pem'}"
    assert condition in written("linux", role)[f"rpcmesh-{role}.service"].splitlines()


@every_role
def test_both_systems_run_the_same_verb_of_the_command_line(role: plan.Role) -> None:
    [command] = [
        line.removeprefix("ExecStart=")
        for line in written("linux", role)[f"rpcmesh-{role}.service"].splitlines()
        if line.startswith("ExecStart=")
    ]
    # Each system keeps homes in a place of its own.
    program, *verb = (word for word in property_list(role)["ProgramArguments"] if not word.startswith("/var/db/"))
    assert [word for word in command.split() if not word.startswith("/var/lib/")] == [program, *verb]
    assert CliRunner().invoke(main.cli, [*verb, "--help"]).exit_code == 0


@both_platforms
@both_roles
def test_sockets_of_a_home_lie_below_it(platform: plan.Platform, role: plan.Role) -> None:
    home = paths.Home(Path(plan.place(platform, role).home))
    assert home.run.is_relative_to(home.root)


# launchd.plist(5): the keys that we use, their types, and for fixed ones the value.
LAUNCHD_KEYS: dict[str, type] = {
    "Label": str,
    "ProgramArguments": list,
    "UserName": str,
    "GroupName": str,
    "InitGroups": bool,
    "WorkingDirectory": str,
    "EnvironmentVariables": dict,
    "RunAtLoad": bool,
    "KeepAlive": dict,
    "ThrottleInterval": int,
    "ExitTimeOut": int,
    "ProcessType": str,
    "Umask": int,
    "SoftResourceLimits": dict,
    "HardResourceLimits": dict,
    "StandardErrorPath": str,
}


def property_list(role: plan.Role) -> dict[str, Any]:
    parsed: dict[str, Any] = plistlib.loads(written("macos", role)[f"dev.rpcmesh.{role}.plist"].encode())
    return parsed


# What root, whose service is the firewall's, has no need of.
OF_A_USER = {"UserName", "GroupName", "InitGroups", "EnvironmentVariables"}


@every_role
def test_a_property_list_has_keys_of_launchd_with_their_types(role: plan.Role) -> None:
    keys = LAUNCHD_KEYS if role in plan.HOMES else {key: LAUNCHD_KEYS[key] for key in LAUNCHD_KEYS.keys() - OF_A_USER}
    assert {key: type(value) for key, value in property_list(role).items()} == keys


@every_role
def test_a_property_lists_inner_values_have_launchds_types(role: plan.Role) -> None:
    job = property_list(role)
    assert all(type(argument) is str for argument in job["ProgramArguments"])
    assert all(type(value) is str for value in job.get("EnvironmentVariables", {}).values())
    assert {type(value) for value in (*job["SoftResourceLimits"].values(), *job["HardResourceLimits"].values())} == {
        int
    }
    assert job["KeepAlive"] == {"SuccessfulExit": False}
    assert job["ProcessType"] in {"Background", "Standard", "Adaptive", "Interactive"}


@every_role
def test_launchd_waits_longer_than_an_orderly_stop_and_keeps_files_private(role: plan.Role) -> None:
    job = property_list(role)
    assert job["ExitTimeOut"] > 20
    assert job["Umask"] == 0o077


@every_role
def test_launchd_is_given_a_log_directory_that_an_earlier_step_makes(role: plan.Role) -> None:
    planned = install("macos", role)
    made = [step.path for step in planned if isinstance(step, steps.MakeDirectory)]
    assert PurePosixPath(property_list(role)["StandardErrorPath"]).parent in made


@pytest.fixture
def executable(tmp_path: Path) -> PurePosixPath:
    """A program: systemd-analyze refuses a unit whose program is not there."""
    path = tmp_path / "rpcmesh"
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)
    return PurePosixPath(path)


def unit_file(folder: Path, role: plan.Role, executable: PurePosixPath, *, gpu: bool = False) -> Path:
    [(name, content)] = written("linux", role, executable).items()
    path = folder / name
    path.write_text(content)
    if gpu:
        drop_in = folder / f"{name}.d" / "gpu.conf"
        drop_in.parent.mkdir()
        shutil.copy(paths.shipped("deploy") / "rpcmesh-gpu.conf", drop_in)
    return path


def systemd_analyze(*arguments: str) -> tuple[int, str]:
    command = [shutil.which("systemd-analyze") or "", "--no-pager", *arguments]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    return ended.returncode, ended.stdout + ended.stderr


@needs_systemd
@pytest.mark.parametrize(
    ("role", "gpu"), [(role, gpu) for role in plan.ROLES for gpu in (False, True) if role in plan.HOMES or not gpu]
)
def test_systemd_finds_no_fault_with_a_unit(
    tmp_path: Path, executable: PurePosixPath, role: plan.Role, gpu: bool
) -> None:
    unit = unit_file(tmp_path, role, executable, gpu=gpu)
    assert systemd_analyze("verify", "--man=no", "--recursive-errors=yes", str(unit)) == (0, "")


@needs_systemd
def test_systemd_would_find_a_misspelt_key(tmp_path: Path, executable: PurePosixPath) -> None:
    unit = unit_file(tmp_path, "node", executable)
    unit.write_text(unit.read_text().replace("KillMode=", "KilMode="))
    code, said = systemd_analyze("verify", "--man=no", "--recursive-errors=yes", str(unit))
    assert code != 0
    assert "KilMode" in said


@needs_systemd
@pytest.mark.parametrize(("role", "tenths"), [("node", 15), ("coordinator", 15), ("firewall", 21)])
def test_a_units_exposure(tmp_path: Path, executable: PurePosixPath, role: plan.Role, tenths: int) -> None:
    """The tunnel runs in the node's unit and in the coordinator's. Only root may change the firewall's rules."""
    unit = unit_file(tmp_path, role, executable)
    code, said = systemd_analyze("security", "--offline=true", f"--threshold={tenths}", str(unit))
    assert code == 0, said


@both_platforms
def test_uninstalling_the_firewall_takes_the_loaded_rules_away(platform: plan.Platform) -> None:
    removing = [
        step.argv
        for step in plan.uninstall(platform, "firewall", EXECUTABLE)
        if isinstance(step, steps.Run) and step.argv[-2:] == ("firewall", "remove")
    ]
    homes = [plan.place(platform, role).home for role in plan.HOMES]
    assert removing == [("env", f"RPCMESH_HOME={home}", str(EXECUTABLE), "firewall", "remove") for home in homes]


def test_the_firewalls_rules_are_there_before_the_ports_that_they_guard() -> None:
    unit = written("linux", "firewall")["rpcmesh-firewall.service"]
    assert "Before=rpcmesh-node.service rpcmesh-coordinator.service" in unit
    assert "Type=notify" in unit
