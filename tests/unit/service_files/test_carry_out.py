"""Steps become files, modes and commands, once: what is already so is left alone."""

from __future__ import annotations

import grp
import os
import pwd
import stat
from pathlib import Path, PurePosixPath

import pytest

from rpcmesh.errors import RpcmeshError
from rpcmesh.service_files import plan, steps, templates
from rpcmesh.service_files.carry_out import carry_out

ME = steps.owner(pwd.getpwuid(os.getuid()).pw_name, grp.getgrgid(os.getgid()).gr_name)

every_service = pytest.mark.parametrize(
    ("platform", "role"), [(platform, role) for platform in plan.PLATFORMS for role in plan.ROLES]
)


EXECUTABLE = PurePosixPath("/opt/rpcmesh/bin/rpcmesh")


def install(platform: plan.Platform, role: plan.Role, executable: PurePosixPath = EXECUTABLE) -> tuple[steps.Step, ...]:
    return plan.install(platform, role, executable, uid=478, render=templates.render)


def files(root: Path) -> dict[str, tuple[int, str]]:
    """Path below ``root`` -> mode and content of every file."""
    return {
        f"/{path.relative_to(root)}": (stat.S_IMODE(path.stat().st_mode), path.read_text())
        for path in root.rglob("*")
        if path.is_file()
    }


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


def file(path: Path, content: str = "new\n", file_mode: int = 0o644) -> steps.WriteFile:
    return steps.WriteFile(PurePosixPath(path), file_mode, ME, content)


@every_service
def test_installing_writes_each_file_with_its_mode(tmp_path: Path, platform: plan.Platform, role: plan.Role) -> None:
    planned = install(platform, role)
    carry_out(planned, root=tmp_path)
    assert files(tmp_path) == {
        str(step.path): (0o644, step.content) for step in planned if isinstance(step, steps.WriteFile)
    }


@every_service
def test_state_directories_are_private(tmp_path: Path, platform: plan.Platform, role: plan.Role) -> None:
    carry_out(install(platform, role), root=tmp_path)
    at = plan.place(platform, role)
    own = (at.home, at.cache) if role in plan.HOMES else ()
    assert {mode(tmp_path / path.relative_to("/")) for path in (at.state, *own)} == {0o700}


@every_service
def test_installing_twice_changes_nothing(tmp_path: Path, platform: plan.Platform, role: plan.Role) -> None:
    carry_out(install(platform, role), root=tmp_path)
    assert carry_out(install(platform, role), root=tmp_path) == ()


@every_service
def test_installing_over_another_version_writes_the_service_file_alone(
    tmp_path: Path, platform: plan.Platform, role: plan.Role
) -> None:
    carry_out(install(platform, role, PurePosixPath("/opt/old/rpcmesh")), root=tmp_path)
    done = carry_out(install(platform, role), root=tmp_path)
    assert [step.path for step in done if isinstance(step, steps.WriteFile)] == [plan.place(platform, role).file]


@every_service
def test_uninstalling_leaves_no_file_but_those_in_the_state_directory(
    tmp_path: Path, platform: plan.Platform, role: plan.Role
) -> None:
    carry_out(install(platform, role), root=tmp_path)
    at = plan.place(platform, role)
    kept = tmp_path / at.state.relative_to("/") / "config.toml"
    kept.write_text("")
    if at.log is not None:
        (tmp_path / at.log.relative_to("/")).write_text("a log\n")
    carry_out(plan.uninstall(platform, role, EXECUTABLE), root=tmp_path)
    assert list(files(tmp_path)) == [f"/{kept.relative_to(tmp_path)}"]


@every_service
def test_uninstalling_what_is_not_installed_changes_nothing(
    tmp_path: Path, platform: plan.Platform, role: plan.Role
) -> None:
    assert carry_out(plan.uninstall(platform, role, EXECUTABLE), root=tmp_path) == ()


def test_uninstalling_one_role_leaves_the_others_files(tmp_path: Path) -> None:
    for role in plan.ROLES:
        carry_out(install("macos", role), root=tmp_path)
    carry_out(plan.uninstall("macos", "node", EXECUTABLE), root=tmp_path)
    assert carry_out(install("macos", "coordinator"), root=tmp_path) == ()


def test_uninstalling_removes_the_admins_drop_ins(tmp_path: Path) -> None:
    carry_out(install("linux", "node"), root=tmp_path)
    drop_in = tmp_path / "etc/systemd/system/rpcmesh-node.service.d/gpu.conf"
    drop_in.parent.mkdir()
    drop_in.write_text("[Service]\n")
    carry_out(plan.uninstall("linux", "node", EXECUTABLE), root=tmp_path)
    assert files(tmp_path) == {}


def test_a_mode_that_was_opened_is_closed_again(tmp_path: Path) -> None:
    carry_out([file(tmp_path / "unit")])
    (tmp_path / "unit").chmod(0o666)
    carry_out([file(tmp_path / "unit")])
    assert mode(tmp_path / "unit") == 0o644


def test_a_link_where_a_file_belongs_is_replaced_and_its_target_left(tmp_path: Path) -> None:
    (tmp_path / "target").write_text("kept\n")
    (tmp_path / "unit").symlink_to(tmp_path / "target")
    carry_out([file(tmp_path / "unit")])
    assert (tmp_path / "target").read_text() == "kept\n"
    assert not (tmp_path / "unit").is_symlink()


def test_a_link_where_a_directory_belongs_is_refused_and_its_target_left(tmp_path: Path) -> None:
    (tmp_path / "target").mkdir(mode=0o755)
    (tmp_path / "state").symlink_to(tmp_path / "target")
    with pytest.raises(RpcmeshError, match="cannot make the directory"):
        carry_out([steps.MakeDirectory(PurePosixPath(tmp_path / "state"), 0o700, ME)])
    assert mode(tmp_path / "target") == 0o755


def test_a_file_that_cannot_be_written_leaves_nothing_unfinished(tmp_path: Path) -> None:
    (tmp_path / "unit").mkdir()
    with pytest.raises(RpcmeshError, match="cannot write"):
        carry_out([file(tmp_path / "unit")])
    assert [path.name for path in tmp_path.iterdir()] == ["unit"]


def test_a_restart_happens_only_after_a_change(tmp_path: Path) -> None:
    restart = steps.Run(("sh", "-c", f"echo >> {tmp_path / 'restarts'}"), after_change=True)
    for _ in range(2):
        carry_out([file(tmp_path / "unit"), restart])
    assert (tmp_path / "restarts").read_text() == "\n"


@pytest.mark.parametrize(
    ("conditions", "runs"),
    [
        ({}, True),
        ({"only_if": ("true",)}, True),
        ({"only_if": ("false",)}, False),
        ({"unless": ("true",)}, False),
        ({"unless": ("false",)}, True),
    ],
)
def test_a_command_runs_when_its_conditions_say_so(
    tmp_path: Path, conditions: dict[str, tuple[str, ...]], runs: bool
) -> None:
    carry_out([steps.Run(("touch", str(tmp_path / "ran")), **conditions)])
    assert (tmp_path / "ran").exists() == runs


def test_a_command_that_fails_says_its_last_line() -> None:
    with pytest.raises(RpcmeshError, match=r"failed: bad unit$"):
        carry_out([steps.Run(("sh", "-c", "echo reading; echo bad unit; exit 3"))])


def test_what_follows_a_failed_step_is_not_done(tmp_path: Path) -> None:
    with pytest.raises(RpcmeshError):
        carry_out([steps.Run(("false",)), file(tmp_path / "unit")])
    assert not (tmp_path / "unit").exists()


def test_a_command_that_is_not_there_is_one_line() -> None:
    with pytest.raises(RpcmeshError, match="there is no 'no-such-command' on this machine"):
        carry_out([steps.Run(("no-such-command",))])


def test_a_user_who_exists_is_not_made(tmp_path: Path) -> None:
    me = ME.partition(":")[0]
    assert carry_out([steps.MakeUser(me, (("touch", str(tmp_path / "made")),))]) == ()
    assert not (tmp_path / "made").exists()


def test_a_missing_user_is_made_by_all_of_its_commands(tmp_path: Path) -> None:
    commands = (("touch", str(tmp_path / "group")), ("touch", str(tmp_path / "user")))
    carry_out([steps.MakeUser("no-such-user", commands)])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["group", "user"]


def test_waiting_ends_when_the_command_fails(tmp_path: Path) -> None:
    (tmp_path / "loaded").touch()
    # Answers once that the job is there, and removes it.
    asked = steps.WaitUntilFails(("rm", str(tmp_path / "loaded")), limit_s=30)
    assert carry_out([asked]) == (asked,)


def test_waiting_for_what_stays_is_an_error() -> None:
    with pytest.raises(RpcmeshError, match="still succeeds after 0 s"):
        carry_out([steps.WaitUntilFails(("true",), limit_s=0)])


def test_another_root_runs_no_commands(tmp_path: Path) -> None:
    carry_out([steps.Run(("touch", str(tmp_path / "ran")))], root=tmp_path)
    assert not (tmp_path / "ran").exists()
