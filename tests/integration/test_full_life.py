"""From a clean Debian to an answer and back, by the commands of deploy/README.md and by those that rpcmesh prints."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path

import debian_root
import pytest
from debian_root import Debian

from rpcmesh import native_build, paths
from rpcmesh.native_build import source

CHECKOUT = Path(__file__).parents[2]
DEPLOY = CHECKOUT / "deploy" / "README.md"
RPCMESH = "/opt/rpcmesh/bin/rpcmesh"
COORDINATOR, NODE = "rpcmesh-coordinator.service", "rpcmesh-node.service"
MODEL = "smollm2-135m-instruct"
QUESTION = "Answer in one sentence. What is the capital of France?"
LIMIT_S = 120.0
# The admin's own, and what any system writes that runs. Shadow keeps a copy of each account file beside it.
NOT_COMPARED = ("opt/rpcmesh", "root", "var/log")
ACCOUNTS = {f"etc/{name}" for name in ("passwd", "shadow", "group", "gshadow")}
COPIES = {f"{name}-" for name in ACCOUNTS}


@pytest.fixture(scope="module")
def debian(llama_source: Path) -> Iterator[Debian]:
    """A machine whose admin has the checkout in /root/rpcmesh, and whose pip finds all it needs in /root/packages."""
    cache = paths.default_cache()
    [set_up] = documented(CHECKOUT / "README.md", "apt-get install")
    base = debian_root.base(cache, [*set_up.partition("#")[0].partition("-y ")[2].split(), "curl"])
    bindings = llama_source.parents[1]
    # Ninja is what the bindings' build asks for when it runs.
    names = [*_requirements(CHECKOUT), *_requirements(bindings), "ninja"]
    wheels = debian_root.wheels(
        cache,
        _python(base),
        CHECKOUT / "constraints.txt",
        [name for name in names if not name.startswith("llama-cpp-python")],
    )
    with debian_root.booted(base) as booted:
        root = booted.files / "root"
        shutil.copytree(wheels, root / "packages")
        shutil.copy(_archive(cache), root / "packages")
        _copy_checkout(root / "rpcmesh")
        (booted.files / "etc" / "pip.conf").write_text("[global]\nno-index = true\nfind-links = /root/packages\n")
        yield booted


def test_both_services_live_on_one_machine_and_leave_it_as_it_was(
    debian: Debian, build: native_build.Build, smollm2: Path
) -> None:
    for command in documented(DEPLOY, "-m venv") + documented(DEPLOY, "pip install"):
        debian.must(f"cd /root/rpcmesh && {command}")
    clean = contents(debian.files)

    # The coordinator: built, founded, with a model, started.
    compile_, found, start = install(debian, "coordinator")
    fill_cache(debian, build, smollm2)
    debian.must(compile_)
    debian.must(found)
    for command in documented(DEPLOY, MODEL):
        debian.must(command)
    debian.must(start)
    coordinator = compile_.removesuffix(" build")
    key = debian.must(f"{coordinator} key create --name curl")

    # The node: joined, started. The mesh answers.
    compile_, join, start = install(debian, "node")
    debian.must(compile_)
    debian.must(join.replace("STRING", "-"), debian.must(f"{coordinator} token create --node here"))
    debian.must(start)
    debian.until(lambda: succeeds(debian, f"{coordinator} status"), "a ready mesh", LIMIT_S)
    assert "Paris" in (ask(debian, key) or "")
    assert debian.run(f"systemctl is-active {COORDINATOR} {NODE}").stdout.split() == ["active", "active"]

    # The node dies. It comes back, and so does the answer.
    killed = main_process(debian, NODE)
    debian.must(f"kill -9 {killed}")
    debian.until(lambda: main_process(debian, NODE) not in {killed, "0"} or None, "the node's next life", LIMIT_S)
    again = debian.until(lambda: ask(debian, key), "an answer after the node's death", LIMIT_S)
    assert "Paris" in again

    # Both go, and leave their state and its owner.
    user_id = int(debian.must("id -u rpcmesh"))
    assert debian.processes_of(user_id)
    debian.must(f"{RPCMESH} service uninstall --role node")
    said = debian.must(f"{RPCMESH} service uninstall --role coordinator")
    assert debian.processes_of(user_id) == []
    assert debian.run("systemctl list-units --all --plain --no-legend 'rpcmesh*'").stdout == ""
    left = changes(clean, contents(debian.files))
    assert {path for path in left - COPIES if not path.startswith("var/lib/rpcmesh/")} == {"var/lib/rpcmesh", *ACCOUNTS}

    # What the last words of uninstall name removes those too.
    debian.must(said.splitlines()[-1].removeprefix("to remove both: "))
    assert changes(clean, contents(debian.files)) - COPIES == set()


def documented(readme: Path, what: str) -> list[str]:
    """The commands in ``readme`` that have ``what`` in them, in order."""
    lines = readme.read_text().splitlines()
    return [line.removeprefix("$ ") for line in lines if line.startswith("$ ") and what in line]


def install(debian: Debian, role: str) -> list[str]:
    """Install ``role``'s service and return the three commands that it says are left."""
    said = debian.must(f"{RPCMESH} service install --role {role}").splitlines()
    return [line.strip() for line in said[said.index("next:") + 1 :]]


def ask(debian: Debian, key: str) -> str | None:
    """The model's answer over HTTPS, or None when there is none now."""
    body = {"model": MODEL, "messages": [{"role": "user", "content": QUESTION}], "temperature": 0, "max_tokens": 24}
    curl = "curl --silent --fail --cacert /var/lib/rpcmesh/coordinator/authority/ca.pem --header @- --data"
    got = debian.run(
        f"{curl} '{json.dumps(body)}' https://127.0.0.1:8443/v1/chat/completions",
        f"Content-Type: application/json\nAuthorization: Bearer {key}",
    )
    return json.loads(got.stdout)["choices"][0]["message"]["content"] if got.returncode == 0 else None


def succeeds(debian: Debian, command: str) -> bool | None:
    return debian.run(command).returncode == 0 or None


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


def fill_cache(debian: Debian, build: native_build.Build, model: Path) -> None:
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
