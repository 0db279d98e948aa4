"""`rpcmesh service …` as an admin meets it, short of changing the machine that the tests run on."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path, PurePosixPath

import pytest
from click.testing import CliRunner, Result

from rpcmesh.cli.service import service
from rpcmesh.errors import RpcmeshError
from rpcmesh.service_files import plan, steps, templates

NOBODY = 65534


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(service, arguments)


@pytest.mark.parametrize("role", plan.ROLES)
@pytest.mark.parametrize("platform", plan.PLATFORMS)
def test_a_dry_run_prints_every_step_and_every_line_of_every_file(platform: plan.Platform, role: plan.Role) -> None:
    program = "/opt/rpcmesh/bin/rpcmesh"
    result = invoke("install", "--dry-run", "--platform", platform, "--role", role, "--executable", program)
    for step in plan.install(platform, role, PurePosixPath(program), uid=478, render=templates.render):
        assert steps.line(step) in result.stdout
        if isinstance(step, steps.WriteFile):
            assert all(f"  | {line}\n" in result.stdout for line in step.content.splitlines())


@pytest.mark.parametrize("platform", plan.PLATFORMS)
def test_a_dry_run_of_uninstall_says_what_is_left(platform: plan.Platform) -> None:
    result = invoke("uninstall", "--dry-run", "--platform", platform)
    assert f"{plan.place(platform, 'node').state} is left" in result.stdout


def test_another_platform_can_only_be_looked_at() -> None:
    other = "linux" if sys.platform == "darwin" else "macos"
    result = invoke("install", "--platform", other)
    assert isinstance(result.exception, RpcmeshError)
    assert result.exception.message == f"this machine is not {other}"


@pytest.mark.parametrize("verb", ["install", "uninstall"])
def test_without_root_the_hint_is_the_command_under_sudo(verb: str) -> None:
    if os.geteuid() == 0:
        # In a child: rights once given up do not come back.
        code = (
            f"import os; from rpcmesh.cli import service; os.setuid({NOBODY})\n"
            f"try: service.service(['{verb}', '--role', 'coordinator'], standalone_mode=False)\n"
            "except service.RpcmeshError as error: print(error.message, error.hint, sep='\\n')"
        )
        said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    else:
        result = invoke(verb, "--role", "coordinator")
        assert isinstance(result.exception, RpcmeshError)
        said = f"{result.exception.message}\n{result.exception.hint}\n"
    program = Path(sys.executable).with_name("rpcmesh")
    assert said.splitlines() == [
        "services belong to the machine: this needs root",
        f"sudo {program} service {verb} --role coordinator",
    ]


def service_manager() -> str | None:
    return shutil.which("launchctl" if sys.platform == "darwin" else "systemctl")


@pytest.mark.skipif(service_manager() is None, reason="neither systemctl nor launchctl is here")
def test_status_of_what_does_not_run_is_one_line_and_exit_1() -> None:
    here: plan.Platform = "macos" if sys.platform == "darwin" else "linux"
    at = plan.place(here, "coordinator")
    if Path(at.file).exists():
        pytest.skip(f"{at.service} is installed on this machine")
    result = invoke("status", "--role", "coordinator")
    assert result.exit_code == 1
    assert result.stdout.startswith(f"{at.service}: ")
    assert result.stdout.count("\n") == 1
