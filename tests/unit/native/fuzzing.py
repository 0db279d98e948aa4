"""Runs the native fuzz targets, each in a process of its own and all at once: for ``make fuzz``, and for a test.

What is in native/fuzz/corpus is only read; new inputs go elsewhere, and what ends a run is kept under its hash.
"""

from __future__ import annotations

import argparse
import contextlib
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from rpcmesh import paths
from rpcmesh.errors import RpcmeshError
from rpcmesh.native_build import programs

TARGETS = ("guard", "tunnel")
CORPUS = paths.shipped("native") / "fuzz" / "corpus"
KEPT = paths.default_cache() / "fuzz"
# Longer inputs say the same in more words.
MAX_BYTES = 2000
# One input that takes so long on a busy machine is one that does not end.
INPUT_LIMIT_S = 120
# Past its time, a target finishes the input it is at, and leak checks.
GRACE_S = 300
OPTIONS = (
    "-DRPCMESH_FUZZ=ON",
    "-DRPCMESH_SANITIZE=address,undefined,fuzzer-no-link",
    "-DCMAKE_CXX_FLAGS_RELEASE=-O2",
)


@dataclass(frozen=True)
class Outcome:
    """``crashes`` are the files that this run left; ``said`` is the end of what it printed."""

    target: str
    status: int
    runs: int
    new_inputs: int
    crashes: tuple[Path, ...]
    said: str


@contextlib.contextmanager
def compiled_targets() -> Iterator[Path]:
    """A folder with the targets, copied so that a long run does not keep other builds waiting."""
    with tempfile.TemporaryDirectory(prefix="rpcmesh-fuzz-") as scratch:
        place = Path(scratch)
        clang = programs.clang_with_libfuzzer(place)
        with programs.compiled(
            cache=paths.default_cache(),
            native=paths.shipped("native"),
            options=OPTIONS,
            targets=[f"{target}_fuzz" for target in TARGETS],
            progress=lambda _stage, _fraction: None,
            cxx=clang,
        ) as objects:
            for target in TARGETS:
                shutil.copy2(objects / "bin" / f"{target}_fuzz", place / target)
        yield place


def fuzz(place: Path, new_inputs: Path, crashes: Path, seconds: int) -> list[Outcome]:
    """All targets for ``seconds`` from the committed corpus. Files in ``new_inputs`` and ``crashes`` are by target."""
    running = []
    with contextlib.ExitStack() as stack:
        for target in TARGETS:
            found, kept = new_inputs / target, crashes / target
            for folder in (found, kept):
                folder.mkdir(parents=True, exist_ok=True)
            before = set(kept.iterdir()), len(list(found.iterdir()))
            command = [str(place / target), f"-max_total_time={seconds}", f"-max_len={MAX_BYTES}"]
            command += [f"-timeout={INPUT_LIMIT_S}", "-rss_limit_mb=4096", "-print_final_stats=1"]
            command += [f"-artifact_prefix={kept}/", str(found), str(CORPUS / target)]
            log = stack.enter_context(tempfile.TemporaryFile("w+", errors="replace"))
            process = stack.enter_context(subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT))
            stack.callback(process.kill)
            running.append((target, process, log, found, kept, before))
        outcomes = []
        for target, process, log, found, kept, (crashes_before, inputs_before) in running:
            status = process.wait(seconds + GRACE_S)
            log.seek(0)
            said = log.read()
            runs = re.search(r"number_of_executed_units:\s*(\d+)", said)
            left = tuple(sorted(set(kept.iterdir()) - crashes_before))
            new = len(list(found.iterdir())) - inputs_before
            outcomes.append(Outcome(target, status, int(runs[1]) if runs else 0, new, left, said[-4000:]))
    return outcomes


def merge(place: Path, found: Path) -> None:
    """Make the committed corpus the smallest part of itself and ``found`` that covers all that both do."""
    for target in TARGETS:
        committed = CORPUS / target
        committed.mkdir(parents=True, exist_ok=True)
        (found / target).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="rpcmesh-corpus-") as scratch:
            command = [
                str(place / target),
                "-merge=1",
                f"-max_len={MAX_BYTES}",
                scratch,
                str(committed),
                str(found / target),
            ]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            for stale in committed.iterdir():
                stale.unlink()
            for path in Path(scratch).iterdir():
                shutil.copy(path, committed / path.name)


def main(arguments: Sequence[str]) -> int:
    """``--seconds N``: fuzz. ``--merge``: take what earlier runs found into the committed corpus."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--seconds", type=int, default=3600)
    parser.add_argument("--merge", action="store_true")
    asked = parser.parse_args(arguments)
    try:
        with compiled_targets() as place:
            if asked.merge:
                merge(place, KEPT / "inputs")
                return 0
            outcomes = fuzz(place, KEPT / "inputs", KEPT / "crashes", asked.seconds)
    except RpcmeshError as error:
        sys.stderr.write(f"error: {error}\nhint: {error.hint}\n")
        return 1
    for outcome in outcomes:
        sys.stdout.write(f"{outcome.target}: {outcome.runs} runs, {outcome.new_inputs} new inputs\n")
        for crash in outcome.crashes:
            sys.stdout.write(f"  found: {crash}\n")
        if outcome.status != 0:
            sys.stdout.write(outcome.said)
    return 0 if all(outcome.status == 0 for outcome in outcomes) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
