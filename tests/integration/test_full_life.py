"""From two clean Debians to an answer through two firewalls and back, by the commands of docs/operations.md."""

from __future__ import annotations

import concurrent.futures
import contextlib
import hashlib
import json
import re
import shutil
import subprocess
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path

import debian_root
import pytest
from debian_root import Debian
from operations_guide import for_linux

from rpcmesh import native_build, paths
from rpcmesh.native_build import source

CHECKOUT = Path(__file__).parents[2]
NAMES = ("coordinator", "node")
# As the guide has them.
ADDRESSES = {"coordinator": "192.168.1.10", "node": "192.168.1.11"}
LIMIT_S = 120.0
# The admin's own, and what any system writes that runs. Shadow keeps a copy of each account file beside it.
NOT_COMPARED = ("opt/rpcmesh", "root", "var/log")
ACCOUNTS = {f"etc/{name}" for name in ("passwd", "shadow", "group", "gshadow")}
COPIES = {f"{name}-" for name in ACCOUNTS}


class Admin:
    """Types the guide's commands, and carries from one to the other what a person would."""

    def __init__(self, machines: Mapping[str, Debian], build: native_build.Build, model: Path) -> None:
        self.machines = machines
        self._build = build
        self._model = model
        # The shell functions that the guide defines, by machine.
        self._shell = dict.fromkeys((*machines, "client"), "cd /root/rpcmesh\n")
        self._join_string = ""
        self._key = ""
        self.said: dict[str, str] = {}

    def follow(self, section: int, *, later: bool = False) -> None:
        for block in for_linux(section, later=later):
            with concurrent.futures.ThreadPoolExecutor() as pool:
                for done in [pool.submit(self._type_all, name, block.commands) for name in block.who]:
                    done.result()

    def _type_all(self, name: str, commands: tuple[str, ...]) -> None:
        for command in commands:
            self.type(name, command)

    def type(self, name: str, command: str) -> str:
        """``command`` on machine ``name``. A client is somebody on the node's machine with a key and the CA's file."""
        if re.match(r"\w+\(\) \{", command):
            self._shell[name] += f"{command}\n"
            return ""
        machine = self.machines["node" if name == "client" else name]
        stdin = ""
        match command.split():
            case ["sudo", "apt-get", "install", "-y", *packages]:
                # They are in the root from the start.
                command = f"dpkg-query -W {' '.join(packages)}"
            case ["mesh", "build"]:
                _fill_cache(machine, self._build, self._model)
            case ["mesh", "join", *_]:
                stdin = self._join_string
            case ["firewall", "apply", *_]:
                stdin = "\n"
            case ["mesh", "status"]:
                typed = f"{self._shell[name]}{command}"
                machine.until(lambda: machine.run(typed).returncode == 0 or None, "a ready mesh", LIMIT_S)
            case _ if name == "client":
                command = f"KEY={self._key}\n{command}"
        said = machine.must(f"{self._shell[name]}{command}", stdin)
        match command.split():
            case ["mesh", "token", "create", *_]:
                self._join_string = said
            case ["mesh", "key", "create", *_]:
                self._key = said.strip()
            case ["sudo", "cat", *_]:
                ca = (machine.files / "root" / "rpcmesh" / "rpcmesh-ca.pem").read_bytes()
                (self.machines["node"].files / "root" / "rpcmesh" / "rpcmesh-ca.pem").write_bytes(ca)
        self.said[f"{name}: {command.partition(chr(10))[2] or command}"] = said
        return said


@pytest.fixture(scope="module")
def machines(llama_source: Path) -> Iterator[dict[str, Debian]]:
    """Two on one network. Their admin has the checkout in /root/rpcmesh, and all that pip needs in /root/packages."""
    cache = paths.default_cache()
    [apt] = [command for block in for_linux(1) for command in block.commands if "apt-get" in command]
    base = debian_root.base(cache, [*apt.partition("-y ")[2].split(), "curl"])
    bindings = llama_source.parents[1]
    # Ninja is what the bindings' build asks for when it runs.
    names = [*_requirements(CHECKOUT), *_requirements(bindings), "ninja"]
    wheels = debian_root.wheels(
        cache,
        _python(base),
        CHECKOUT / "constraints.txt",
        [name for name in names if not name.startswith("llama-cpp-python")],
    )
    with contextlib.ExitStack() as stack:
        made = {name: stack.enter_context(debian_root.booted(base)) for name in NAMES}
        for machine in made.values():
            root = machine.files / "root"
            shutil.copytree(wheels, root / "packages")
            shutil.copy(_archive(cache), root / "packages")
            _copy_checkout(root / "rpcmesh")
            (machine.files / "etc" / "pip.conf").write_text("[global]\nno-index = true\nfind-links = /root/packages\n")
        debian_root.connect(*((made[name], ADDRESSES[name]) for name in NAMES))
        yield made


def test_the_guide_leads_to_a_firewalled_service_and_back(
    machines: dict[str, Debian], build: native_build.Build, smollm2: Path
) -> None:
    coordinator, node = (machines[name] for name in NAMES)
    admin = Admin(machines, build, smollm2)
    admin.follow(1)
    clean = {name: contents(machine.files) for name, machine in machines.items()}
    admin.follow(2)
    admin.follow(3)
    admin.follow(4)

    # It answers, behind firewalls that are as meant.
    [answer] = [said for typed, said in admin.said.items() if typed.startswith("coordinator: mesh chat ")]
    assert "Paris" in answer
    report = json.loads(admin.type("coordinator", "mesh status --json"))
    assert report["firewall"]["state"] == "verified"
    assert [one["agent"]["firewall"]["state"] for one in report["nodes"]] == ["verified"]
    for name in NAMES:
        assert "a stranger's connection" in admin.said[f"{name}: firewall verify"]
    [models] = [said for typed, said in admin.said.items() if typed.startswith("client: ")]
    assert json.loads(models)["data"][0]["id"] == "smollm2-135m-instruct"

    # The node dies. It comes back, and so does the answer.
    killed = main_process(node, "rpcmesh-node")
    node.must(f"kill -9 {killed}")
    node.until(lambda: main_process(node, "rpcmesh-node") not in {killed, "0"} or None, "its next life", LIMIT_S)
    ready = "the mesh after the node's death"
    coordinator.until(lambda: _is_ready_again(admin), ready, LIMIT_S)

    # Whoever empties all tables, as `systemctl restart nftables` does: ours come back.
    node.must("nft flush ruleset")
    node.until(lambda: "rpcmesh" in node.must("nft list tables") or None, "the rules", LIMIT_S)

    # The node is put out: nothing gets through to it any more, whatever asks.
    assert reaches(coordinator)
    admin.follow(5, later=True)
    coordinator.until(lambda: not reaches(coordinator) or None, "the end of all connections", LIMIT_S)

    # All goes, but the state and its owner.
    users = {name: int(machine.must("id -u rpcmesh")) for name, machine in machines.items()}
    admin.follow(5)
    for name, machine in machines.items():
        assert machine.processes_of(users[name]) == []
        assert machine.run("systemctl list-units --all --plain --no-legend 'rpcmesh*'").stdout == ""
        assert machine.must("nft list tables") == ""
        left = changes(clean[name], contents(machine.files))
        kept = {path for path in left - COPIES if not path.startswith("var/lib/rpcmesh/")}
        assert kept == {"var/lib/rpcmesh", *ACCOUNTS}

        # What the last words of uninstall name removes those too.
        last = admin.said[f"{name}: sudo /opt/rpcmesh/bin/rpcmesh service uninstall --role firewall"].splitlines()[-1]
        machine.must(last.removeprefix("to remove both: "))
        assert changes(clean[name], contents(machine.files)) - COPIES == set()


def _is_ready_again(admin: Admin) -> bool | None:
    """Ready, and over the node's new process."""
    with contextlib.suppress(AssertionError):
        report = json.loads(admin.type("coordinator", "mesh status --json"))
        return (report["ready"] and report["nodes"][0]["agent"]["uptime_s"] < LIMIT_S) or None
    return None


def reaches(coordinator: Debian) -> bool:
    """Whether a plain TCP connection to the node's port comes about from the coordinator's machine."""
    connect = f"exec 3<>/dev/tcp/{ADDRESSES['node']}/7443"
    return coordinator.run(f"timeout 2 bash -c '{connect}'").returncode == 0


def main_process(debian: Debian, service: str) -> str:
    return debian.must(f"systemctl show --property MainPID --value {service}").strip()


def contents(root: Path) -> dict[str, str]:
    """Path below ``root`` -> what lies there: a file's hash, a link's target, or its kind."""
    found = {}
    for path in root.rglob("*"):
        name = str(path.relative_to(root))
        if name.startswith(NOT_COMPARED):
            continue
        if path.is_symlink():
            found[name] = f"-> {path.readlink()}"
        elif path.is_file():
            with path.open("rb") as file:
                found[name] = hashlib.file_digest(file, "sha256").hexdigest()
        else:
            found[name] = "directory" if path.is_dir() else "other"
    return found


def changes(before: dict[str, str], after: dict[str, str]) -> set[str]:
    return {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}


def _fill_cache(debian: Debian, build: native_build.Build, model: Path) -> None:
    """Give the service's cache what this machine's own holds: nothing is fetched or, by an equal compiler, compiled."""
    cache = debian.files / "var" / "lib" / "rpcmesh" / "cache"
    shutil.copytree(build.dir, cache / "builds" / build.dir.name, symlinks=True)
    for file in (_archive(paths.default_cache()), model):
        (cache / file.parent.name).mkdir()
        shutil.copy(file, cache / file.parent.name)
    debian.must("chown -R rpcmesh:rpcmesh /var/lib/rpcmesh/cache")


def _requirements(project: Path) -> list[str]:
    """What it takes to build and to run ``project``."""
    described = tomllib.loads((project / "pyproject.toml").read_text())
    return [*described["build-system"]["requires"], *described["project"]["dependencies"]]


def _python(base: Path) -> str:
    """The version of the root's Python as pip wants it: ``3.11``."""
    return (base / "usr" / "bin" / "python3").readlink().name.removeprefix("python")


def _archive(cache: Path) -> Path:
    return cache / "downloads" / f"{source.PACKAGE}-{source.VERSION}.tar.gz"


def _copy_checkout(target: Path) -> None:
    """What git would take along: not what it ignores, and not what was deleted."""
    listing = ("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard")
    listed = subprocess.run(listing, cwd=CHECKOUT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, listed.split("\0")):
        if (CHECKOUT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(CHECKOUT / name, target / name)
