"""The doctor at real homes: what it says of a sound one, and of one that somebody damaged."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import whole_mesh
from whole_mesh import node_in, until_report

from rpcmesh import config, paths
from rpcmesh.coordinator import founding
from rpcmesh.doctor.findings import Finding
from rpcmesh.native_build import Build
from rpcmesh.paths import Home

DOCTOR = (sys.executable, "-c", "from rpcmesh.cli.doctor import doctor; doctor()")
OTHER_ID = "f00df00df00df00d"
# What depends on the machine that the tests run on; nobody keeps its firewall.
OF_THE_MACHINE = {
    "firewall",
    "firewalls",
    "disk",
    "open files",
    "huge pages",
    "cpu governor",
    "heat",
    "sleep",
    "gpu",
    "macos",
    "memory",
    "sandbox",
    "links",
}


def run_doctor(home: Home, *options: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*DOCTOR, *options],
        env={**os.environ, "RPCMESH_HOME": str(home.root), **env},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def findings(home: Home, *options: str, **env: str) -> tuple[int, list[Finding]]:
    done = run_doctor(home, "--json", *options, **env)
    return done.returncode, [Finding(**row) for row in json.loads(done.stdout)]


def of(check: str, found: list[Finding]) -> list[Finding]:
    return [finding for finding in found if finding.check == check]


def found_mesh(home: Home, listen: str = "127.0.0.1:8443") -> None:
    settings = config.Config(coordinator=config.Coordinator(listen=listen), build=config.Build(backend="cpu"))
    founding.found(home, settings, time.time())


def test_a_home_without_a_mesh_is_told_how_to_begin(build: Build) -> None:
    with whole_mesh.short_home() as home:
        status, found = findings(home, RPCMESH_BUILD_BACKEND="cpu")

        assert status == 0
        (mesh,) = of("mesh", found)
        assert (mesh.level, mesh.fix) == ("warn", "rpcmesh init, or on a node: rpcmesh join STRING")
        assert [finding.message for finding in of("binaries", found)] == [f"build {build.build_id} is as it was built"]
        assert {finding.check for finding in found}.isdisjoint({"certificate", "coordinator", "node"})


def test_a_freshly_founded_coordinator_lacks_only_what_comes_next(build: Build) -> None:
    with whole_mesh.short_home() as home:
        found_mesh(home)

        status, found = findings(home)

        assert status == 0
        assert build.build_id in of("binaries", found)[0].message
        wrong = {finding.check: finding.fix for finding in found if finding.level != "ok"}
        assert {check: fix for check, fix in wrong.items() if check not in OF_THE_MACHINE} == {
            "model file": "rpcmesh serve --model NAME, or [engine] model in config.toml",
            "coordinator": "rpcmesh serve",
        }


def test_people_get_a_table_with_one_line_a_finding(build: Build) -> None:
    with whole_mesh.short_home() as home:
        found_mesh(home)

        lines = run_doctor(home).stdout.splitlines()

        assert lines[0].split() == ["CHECK", "RESULT", "WHAT", "FIX"]
        (row,) = [line.split("  ") for line in lines if line.startswith("coordinator")]
        assert [cell.strip() for cell in row if cell.strip()] == [
            "coordinator",
            "warn",
            f"no coordinator answers on '{home.socket('admin')}'",
            "rpcmesh serve",
        ]


def test_a_key_that_others_can_read_fails_and_fix_mends_it(build: Build) -> None:
    with whole_mesh.short_home() as home:
        found_mesh(home)
        key = home.identity / "key.pem"
        key.chmod(0o644)

        before, found = findings(home)
        mended = run_doctor(home, "--fix")

        assert before == 1
        (finding,) = of("permissions", found)
        assert (finding.level, finding.fix) == ("fail", f"chmod 600 {key}")
        assert (mended.returncode, mended.stderr) == (0, f"done: chmod 600 {key}\n")
        assert key.stat().st_mode & 0o777 == 0o600


def test_a_home_that_others_can_enter_is_left_alone_without_fix(build: Build) -> None:
    with whole_mesh.short_home() as home:
        found_mesh(home)
        home.root.chmod(0o755)

        status, found = findings(home)

        assert status == 1
        assert of("permissions", found)[0].fix == f"chmod 700 {home.root}"
        assert home.root.stat().st_mode & 0o777 == 0o755


def test_fix_leaves_a_directory_that_holds_no_mesh_as_it_is(build: Build) -> None:
    with whole_mesh.short_home() as home:
        home.root.chmod(0o755)

        done = run_doctor(home, "--fix")

        assert (done.returncode, done.stderr) == (0, "")
        assert home.root.stat().st_mode & 0o777 == 0o755


def test_a_home_that_is_a_file_is_no_traceback(build: Build, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    done = run_doctor(Home(tmp_path / "file"))

    assert done.stderr == ""
    assert "holds no mesh yet" in done.stdout


def test_a_tampered_binary_fails_and_names_the_build_to_remove(build: Build, tmp_path: Path) -> None:
    copy = tmp_path / "builds" / build.dir.name
    shutil.copytree(build.dir, copy, symlinks=True)
    with (copy / "bin" / "rpcmesh-tunnel").open("ab") as binary:
        binary.write(b"\0")
    with whole_mesh.short_home() as home:
        found_mesh(home)

        status, found = findings(home, RPCMESH_CACHE=str(tmp_path))

    assert status == 1
    (finding,) = of("binaries", found)
    assert (finding.level, finding.fix) == ("fail", f"rm -r {copy} && rpcmesh build")
    assert "rpcmesh-tunnel" in finding.message


def test_an_empty_cache_is_told_to_build(tmp_path: Path) -> None:
    with whole_mesh.short_home() as home:
        found_mesh(home)

        status, found = findings(home, RPCMESH_CACHE=str(tmp_path))

    assert status == 0
    assert [(finding.level, finding.fix) for finding in of("binaries", found)] == [("warn", "rpcmesh build")]


def test_a_setting_that_cannot_be_read_is_said_where_it_was_needed(build: Build) -> None:
    with whole_mesh.short_home() as home:
        found_mesh(home)
        home.config.write_text("[coordinator]\nlisten = 7\n")

        done = run_doctor(home)

        assert "Traceback" not in done.stderr
        assert "could not be looked at: wrong setting in" in done.stdout


def test_an_address_of_another_machine_fails(build: Build) -> None:
    with whole_mesh.short_home() as home:
        found_mesh(home, listen="192.0.2.1:8443")

        status, found = findings(home)

        assert status == 1
        assert of("address", found)[0].message.startswith("'192.0.2.1' is not an address of this machine")


def test_a_key_of_another_certificate_fails(build: Build) -> None:
    with whole_mesh.short_home() as home:
        found_mesh(home)
        shutil.copyfile(home.authority / "ca-key.pem", home.identity / "key.pem")

        status, found = findings(home)

        assert status == 1
        assert "is not the key of" in of("certificate", found)[0].message


async def test_a_running_mesh_is_well_and_a_stopped_node_is_named_with_the_reason(build: Build, smollm2: Path) -> None:
    async with whole_mesh.ready(build, smollm2, nodes=2, min_workers=1) as mesh:
        await until_report(mesh, lambda seen: {node.state for node in seen.nodes} == {"up"}, "both nodes")
        well, sound = await asyncio.to_thread(findings, mesh.home)
        node_well, node_sound = await asyncio.to_thread(findings, mesh.node_home("node-1"))
        listen = config.load(mesh.node_home("node-1").config).node.listen

        await mesh.processes.pop("node-2").stop(10)
        await until_report(mesh, lambda seen: "nothing answers" in node_in(seen, "node-2").reason, "the loss of node-2")
        ill, lost = await asyncio.to_thread(findings, mesh.home)
        node_ill, node_lost = await asyncio.to_thread(findings, mesh.node_home("node-2"))

    assert well == 0, sound
    assert [finding for finding in sound if finding.level != "ok" and finding.check not in OF_THE_MACHINE] == []
    assert [finding.message for finding in of("workers", sound)] == [
        "worker w0 of node-1 is ready",
        "worker w0 of node-2 is ready",
    ]
    assert [finding.message.partition(":")[0] for finding in of("links", sound)] == ["node-1", "node-2"]
    assert all(re.search(r" round trip, .* there, .*bit/s back", finding.message) for finding in of("links", sound))
    assert [finding.message.partition("'")[0] for finding in of("clocks", sound)] == ["node-1", "node-2"]
    # Loopback passes every firewall by.
    assert of("strangers", sound) == []
    assert node_well == 0, node_sound
    assert [finding.message for finding in of("open ports", node_sound)] == [f"only the tunnel listens, on {listen}"]
    (walls,) = of("sandbox", node_sound)
    assert walls.message.startswith("worker w0 has ")
    assert "worker w0 is ready" in {finding.message for finding in of("node", node_sound)}
    assert [finding for finding in node_sound if finding.level != "ok" and finding.check not in OF_THE_MACHINE] == []
    assert ill == 1
    (failed,) = [finding for finding in of("nodes", lost) if finding.level == "fail"]
    assert failed.message.startswith("node-2 is down: ")
    assert "nothing answers at 127.0.0.1:" in failed.message
    assert node_ill == 0
    assert [(finding.level, finding.fix) for finding in of("node", node_lost)] == [("warn", "rpcmesh node run")]


async def test_a_node_with_another_build_is_named_with_both_ids(
    build: Build, smollm2: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = tmp_path / "builds" / build.dir.name
    shutil.copytree(build.dir, copy, symlinks=True)
    (tmp_path / "source").symlink_to(paths.default_cache() / "source")
    manifest = copy / "manifest.json"
    manifest.write_text(manifest.read_text().replace(build.build_id, OTHER_ID))
    async with whole_mesh.founded(build, smollm2, min_workers=1) as mesh:
        await mesh.join("node-1")
        with monkeypatch.context() as patched:
            patched.setenv("RPCMESH_CACHE", str(tmp_path))
            await mesh.run_node("node-1")
        await until_report(mesh, lambda seen: OTHER_ID in node_in(seen, "node-1").reason, "the verdict")

        status, found = await asyncio.to_thread(findings, mesh.home)

    assert status == 1
    (ids,) = of("build ids", found)
    assert ids.level == "fail"
    assert ids.message == f"node-1 has build {OTHER_ID}, the coordinator {build.build_id}"
    assert [finding.level for finding in of("nodes", found)] == ["fail"]
