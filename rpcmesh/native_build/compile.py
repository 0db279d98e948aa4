"""From source to a finished, content-addressed build: configure, compile, copy, hash, rename."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import platform
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import msgspec

from rpcmesh import commands, disk
from rpcmesh.config import Backend
from rpcmesh.errors import RpcmeshError
from rpcmesh.native_build import requirements, source
from rpcmesh.native_build.manifest import CONFINE, FILE_NAME, TUNNEL, WORKER, Build, Manifest, fingerprint, open_build

# (what is going on, fraction done between 0 and 1)
Progress = Callable[[str, float], None]

_TARGETS = ("llama", WORKER, TUNNEL, CONFINE)
_BACKENDS: dict[str, tuple[str, ...]] = {
    "cpu": ("-DGGML_METAL=OFF",),
    "metal": ("-DGGML_METAL=ON", "-DGGML_METAL_EMBED_LIBRARY=ON"),
    "cuda": ("-DGGML_CUDA=ON", "-DGGML_METAL=OFF"),
    "vulkan": ("-DGGML_VULKAN=ON", "-DGGML_METAL=OFF"),
}
# Source, objects and result together, measured for the CPU backend and rounded up.
_NEEDED_BYTES = 1_200 * 2**20
# "[12/345] Building …" from Ninja, "[ 42%] Building …" from make.
_STEP = re.compile(r"^\[\s*(?:(\d+)/(\d+)|(\d+)%)\]")
# Where a compiler, a linker or CMake begins to complain; "-Werror" in a command line is no complaint.
_COMPLAINT = re.compile(r"\berror\b[: ]|\bld: |\bundefined symbols", re.IGNORECASE)


class Toolchain(msgspec.Struct, frozen=True):
    """``options`` are CMake's; ``compiler`` names version and system, and is part of what a build is found by."""

    compiler: str
    options: tuple[str, ...]
    generator: str


class Plan(msgspec.Struct, frozen=True):
    """Everything that the result depends on."""

    source: source.Source
    native: Path
    native_digest: str
    backend: Backend
    compiler: str
    options: tuple[str, ...]
    generator: str

    @property
    def build_id(self) -> str:
        return short_hash(self.source.digest, self.native_digest)

    @property
    def work_key(self) -> str:
        """Names the object tree: a change in native/ alone compiles native/ alone."""
        place = (str(self.source.llama), self.generator)
        return short_hash(self.source.digest, *place, self.backend, self.compiler, *self.options)

    @property
    def key(self) -> str:
        return short_hash(self.source.digest, self.native_digest, self.backend, self.compiler, *self.options)


def build(*, cache: Path, native: Path, backend: Backend, llama: Path | None, progress: Progress) -> Build:
    """Return the finished build for these inputs, compiling it first if it is not there.

    ``llama`` is somebody's own checkout, None the pinned source. Raises :class:`RpcmeshError` with the last lines of a
    failed compile and the place of its log. Two builds of the same inputs wait for each other.
    """
    requirements.require()
    tree = source.checkout(llama) if llama else source.pinned(cache, progress)
    plan = _plan(tree, native, choose_backend(backend))
    finished = cache / "builds" / plan.key
    if finished.is_dir():
        return open_build(finished)
    with locked(cache / "builds" / f"{plan.work_key}.lock", progress):
        if not finished.is_dir():
            disk.require_free(cache, _NEEDED_BYTES, "the native build")
            with disk.full_disk_is_one_line(cache):
                _compile(plan, cache / "work" / plan.work_key, finished, progress)
    return open_build(finished)


def stock(*, cache: Path, native: Path, backend: Backend, progress: Progress) -> Path:
    """The libraries of the pinned source with upstream's own RPC transport: the rival in benchmarks.

    Returns a folder like a build's ``bin``, in which the RPC backend alone is another. It has no manifest and is never
    used to serve.
    """
    ours = build(cache=cache, native=native, backend=backend, llama=None, progress=progress)
    plan = _plan(source.pinned(cache), native, choose_backend(backend))
    place, work = cache / "bench" / plan.key, cache / "work" / plan.work_key
    with locked(cache / "builds" / f"{plan.work_key}.lock", progress):
        if not place.is_dir():
            _make(plan, work, ("ggml-rpc-stock",), progress)
            with whole(place) as scratch:
                ignored = shutil.ignore_patterns("libggml-rpc.*", TUNNEL, CONFINE)
                shutil.copytree(ours.lib_dir, scratch, symlinks=True, ignore=ignored, dirs_exist_ok=True)
                shutil.copytree(work / "objects" / "stock", scratch, symlinks=True, dirs_exist_ok=True)
    return place


def choose_backend(asked: Backend) -> Backend:
    """``auto`` is metal on macOS, cuda where nvcc is found, else cpu."""
    if asked != "auto":
        return asked
    if platform.system() == "Darwin":
        return "metal"
    return "cuda" if shutil.which("nvcc") and shutil.which("nvidia-smi") else "cpu"


def toolchain(backend: Backend) -> Toolchain:
    """What this machine compiles with. Raises :class:`RpcmeshError` where there is no compiler."""
    cxx = requirements.compiler()
    if cxx is None:
        raise RpcmeshError("no C++ compiler was found", hint=requirements.install_command(["a C++ compiler"]))
    version = subprocess.run([cxx, "--version"], capture_output=True, text=True, check=True).stdout.splitlines()[0]
    root = requirements.openssl_root()
    openssl = (f"-DOPENSSL_ROOT_DIR={root}",) if root else ()
    return Toolchain(
        compiler=f"{version} for {os.uname().sysname} {os.uname().machine}",
        options=("-DCMAKE_BUILD_TYPE=Release", f"-DCMAKE_CXX_COMPILER={cxx}", *openssl, *_BACKENDS[backend]),
        generator=requirements.generator() or "",
    )


def _plan(tree: source.Source, native: Path, backend: Backend) -> Plan:
    tools = toolchain(backend)
    return Plan(
        source=tree,
        native=native,
        native_digest=source.tree_digest(native),
        backend=backend,
        compiler=tools.compiler,
        options=tools.options,
        generator=tools.generator,
    )


def _compile(plan: Plan, work: Path, finished: Path, progress: Progress) -> None:
    _make(plan, work, _TARGETS, progress)
    _publish(plan, work / "objects" / "bin", finished)


def _make(plan: Plan, work: Path, targets: Sequence[str], progress: Progress) -> None:
    """Configure and compile ``targets`` in the object tree below ``work``."""
    work.mkdir(parents=True, exist_ok=True)
    # Compiled from a copy in a fixed place, so that the object tree serves every checkout and wheel of rpcmesh.
    mirror(plan.native, work / "native")
    if source.tree_digest(work / "native") != plan.native_digest:
        raise RpcmeshError(f"{str(plan.native)!r} changed while it was read", hint="run the same command again")
    options = (f"-DRPCMESH_LLAMA_SOURCE={plan.source.llama}", *plan.options)
    cmake(work / "native", work, plan.generator, options, targets, progress)


def cmake(
    tree: Path, work: Path, generator: str, options: Sequence[str], targets: Sequence[str], progress: Progress
) -> None:
    """Configure ``tree`` in ``work``/objects and compile ``targets`` there; the compiler's words go to a log."""
    log, objects = work / "build.log", work / "objects"
    configure = ["cmake", "-S", str(tree), "-B", str(objects), "-G", generator, *options]
    jobs = str(os.cpu_count() or 1)
    compile_all = ["cmake", "--build", str(objects), "--parallel", jobs, "--target", *targets]
    with log.open("w", encoding="utf-8") as out:
        progress("configure", 0.0)
        run(configure, out.write, log, lambda _: None)
        progress("compile", 0.0)
        run(compile_all, out.write, log, lambda done: progress("compile", done))


def run(command: list[str], write: Callable[[str], object], log: Path, fraction: Callable[[float], None]) -> None:
    tail: list[str] = []
    # Errors are recognised by their words, which some compilers translate.
    with commands.started(command, {"LC_ALL": "C.UTF-8"}) as child:
        assert child.stdout is not None  # noqa: S101 (stdout=PIPE)
        for line in child.stdout:
            write(line)
            tail = [*tail[-39:], line.rstrip()]
            if step := _STEP.match(line):
                done, total, percent = step.groups()
                fraction(int(percent) / 100 if percent else int(done) / int(total))
    if child.returncode != 0:
        disk.raise_if_full("\n".join(tail), log)
        raise RpcmeshError(
            f"the native build failed (exit {child.returncode}):\n  " + "\n  ".join(_last_words(tail)),
            hint=f"the whole log: {log}",
        )


def _last_words(tail: list[str]) -> list[str]:
    """The first complaint in ``tail`` and what follows it, else its end: three lines."""
    lines = [line for line in tail if line]
    first = next((number for number, line in enumerate(lines) if _COMPLAINT.search(line)), -3)
    return lines[first:][:3]


def _publish(plan: Plan, built: Path, finished: Path) -> None:
    with whole(finished) as scratch:
        target = scratch / "bin"
        target.mkdir()
        wanted = [
            path
            for path in sorted(built.iterdir())
            if path.name in (WORKER, TUNNEL, CONFINE) or path.name.startswith(("libggml", "libllama"))
        ]
        for path in wanted:
            if path.name.startswith("libllama-") or path.is_dir():
                continue  # llama.cpp's own tools' helpers: the engine does not load them
            shutil.copy2(path, target / path.name, follow_symlinks=False)
        files = {path.name: fingerprint(path) for path in sorted(target.iterdir())}
        manifest = Manifest(
            build_id=plan.build_id,
            backend=plan.backend,
            source_digest=plan.source.digest,
            native_digest=plan.native_digest,
            compiler=plan.compiler,
            options=plan.options,
            files=files,
        )
        (scratch / FILE_NAME).write_bytes(msgspec.json.format(msgspec.json.encode(manifest)))


@contextlib.contextmanager
def whole(finished: Path) -> Iterator[Path]:
    """A folder beside ``finished`` that takes its name at the end: what lies there under that name is always whole."""
    finished.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(dir=finished.parent, prefix=".unfinished-"))
    try:
        yield scratch
        scratch.chmod(0o755)
        scratch.rename(finished)
    except OSError:
        # An equal checkout in another place was built at the same time, and this one came second.
        if not finished.is_dir():
            raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def mirror(native: Path, copy: Path) -> None:
    """Make ``copy`` equal to ``native``, leaving equal files untouched so that their objects stay fresh."""
    wanted = {path.relative_to(native): path for path in native.rglob("*") if path.is_file()}
    for path in [path for path in copy.rglob("*") if path.is_file() and path.relative_to(copy) not in wanted]:
        path.unlink()
    for name, path in wanted.items():
        target = copy / name
        if not target.is_file() or target.read_bytes() != path.read_bytes():
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())


@contextlib.contextmanager
def locked(path: Path, progress: Progress) -> Iterator[None]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            progress("waiting for another build", 0.0)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def short_hash(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]
