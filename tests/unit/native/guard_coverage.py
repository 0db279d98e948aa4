"""``make coverage``: how much of the guard its tests, its recordings and its corpus reach, by line and by branch.

Clang's instrumentation counts both outcomes of every condition in the source, and no branches that a compiler added.
"""

from __future__ import annotations

import json
import lzma
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from rpcmesh import paths
from rpcmesh.errors import RpcmeshError
from rpcmesh.native_build import programs

LEAST_PERCENT = 95.0
KINDS = ("lines", "branches")
NATIVE = paths.shipped("native")
RECORDINGS = Path(__file__).parents[2] / "recordings"
OPTIONS = ("-DCMAKE_BUILD_TYPE=Debug", "-DCMAKE_CXX_FLAGS=-fprofile-instr-generate -fcoverage-mapping")


def measured() -> dict[str, Any]:
    """What ``llvm-cov export`` says of the guard's sources: ``files`` and ``totals``."""
    tools = {name: shutil.which(name) for name in ("clang++", "llvm-profdata", "llvm-cov")}
    for name, path in tools.items():
        if path is None:
            raise RpcmeshError(f"{name} was not found", hint="Debian: apt-get install clang llvm")
    with (
        tempfile.TemporaryDirectory(prefix="rpcmesh-coverage-") as scratch,
        programs.compiled(
            cache=paths.default_cache(),
            native=NATIVE,
            options=OPTIONS,
            targets=[],
            progress=lambda _stage, _fraction: None,
            cxx=tools["clang++"],
        ) as objects,
    ):
        for packed in RECORDINGS.glob("*.xz"):
            (Path(scratch) / packed.stem).write_bytes(lzma.decompress(packed.read_bytes()))
        runs: dict[Path, list[Path]] = {test: [] for test in sorted((objects / "bin").glob("guard_*_test"))}
        runs[objects / "bin" / "guard_fuzz"] = sorted((NATIVE / "fuzz" / "corpus" / "guard").iterdir())
        runs[objects / "bin" / "guard_replay"] = sorted(Path(scratch).glob("*.rec"))
        profiles = {**os.environ, "LLVM_PROFILE_FILE": f"{scratch}/%p.profraw"}
        for program, inputs in runs.items():
            subprocess.run([program, *inputs], check=True, env=profiles, stdout=subprocess.DEVNULL)
        merged = f"{scratch}/all.profdata"
        raw = sorted(Path(scratch).glob("*.profraw"))
        subprocess.run([str(tools["llvm-profdata"]), "merge", "-sparse", *raw, "-o", merged], check=True)
        first, *others = map(str, runs)
        binaries = [first, *(part for program in others for part in ("-object", program))]
        command = [str(tools["llvm-cov"]), "export", "-summary-only", f"-instr-profile={merged}", *binaries]
        command.append(str(objects.parent / "native" / "guard"))
        exported = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    report: dict[str, Any] = json.loads(exported)["data"][0]
    return report


def main() -> int:
    try:
        report = measured()
    except RpcmeshError as error:
        sys.stderr.write(f"error: {error}\nhint: {error.hint}\n")
        return 1
    rows = [(Path(file["filename"]).name, file["summary"]) for file in report["files"]]
    sys.stdout.write(f"{'FILE':<24}{'LINES':>10}{'BRANCHES':>12}\n")
    for name, summary in [*rows, ("all", report["totals"])]:
        lines, branches = (f"{summary[kind]['percent']:.1f} %" if summary[kind]["count"] else "-" for kind in KINDS)
        sys.stdout.write(f"{name:<24}{lines:>10}{branches:>12}\n")
    low = [kind for kind in KINDS if report["totals"][kind]["percent"] < LEAST_PERCENT]
    if low:
        sys.stderr.write(f"error: fewer than {LEAST_PERCENT:g} % of the {' and of the '.join(low)}\n")
    return 1 if low else 0


if __name__ == "__main__":
    sys.exit(main())
