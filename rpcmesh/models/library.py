"""The models of one coordinator: names that link to GGUF files. No model is loaded here."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec

from rpcmesh.errors import RpcmeshError
from rpcmesh.paths import Home, private_dir

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


class Model(msgspec.Struct, frozen=True):
    """A model file under its name here. In a list, ``problem`` says what is wrong with one that cannot be used."""

    name: str
    path: Path
    size_bytes: int
    problem: str = ""


def add(home: Home, path: Path, name: str | None = None) -> Model:
    """Check ``path`` and make it known as ``name`` (its file name without ``.gguf``)."""
    chosen = name or path.name.removesuffix(".gguf")
    if not _NAME.fullmatch(chosen):
        raise RpcmeshError(
            f"{chosen!r} cannot be a model's name", hint="letters, digits, dot, dash and underscore: --name NAME"
        )
    require_whole(path)
    target = path.resolve()
    link = private_dir(home.models) / f"{chosen}.gguf"
    if link.is_symlink() and link.resolve() != target:
        raise RpcmeshError(
            f"a model named {chosen!r} exists already: {str(link.resolve())!r}", hint="choose another: --name NAME"
        )
    if not link.is_symlink():
        link.symlink_to(target)
    return find(home, chosen)


def names(home: Home) -> list[str]:
    """All known names, sorted."""
    return sorted(path.name.removesuffix(".gguf") for path in home.models.glob("*.gguf"))


def find(home: Home, name: str) -> Model:
    """The model known as ``name``; raises :class:`RpcmeshError` when it is unknown or its file has gone."""
    link = home.models / f"{name}.gguf"
    if not _NAME.fullmatch(name) or not link.is_symlink():
        known = ", ".join(map(repr, names(home))) or "none yet"
        raise RpcmeshError(
            f"no model is named {name!r} here: {known}", hint="rpcmesh model pull NAME, or rpcmesh model add PATH"
        )
    path = link.resolve()
    return Model(name=name, path=path, size_bytes=_require_magic(path))


def ls(home: Home) -> list[Model]:
    """Every known model, sorted by name, also those whose file has gone."""
    return [_listed(home, name) for name in names(home)]


def _listed(home: Home, name: str) -> Model:
    try:
        return find(home, name)
    except RpcmeshError as error:
        link = home.models / f"{name}.gguf"
        return Model(name=name, path=link.resolve() if link.is_symlink() else link, size_bytes=0, problem=error.message)


def require_whole(path: Path) -> None:
    """Check that every tensor the header promises lies inside the file. Reads the header only, yet takes seconds."""
    size_bytes = _require_magic(path)
    # Imported where it is used: numpy costs every other verb a third of a second.
    from gguf import GGUFReader  # noqa: PLC0415

    try:
        GGUFReader(path)
    except (ValueError, IndexError, KeyError, OverflowError, TypeError) as error:
        # The reader maps each tensor; one that reaches past the end of the file cannot be mapped.
        raise RpcmeshError(
            f"{str(path)!r} is cut off or damaged: its header promises more than its {size_bytes} bytes hold",
            hint="copy it again",
        ) from error


def _require_magic(path: Path) -> int:
    try:
        with path.open("rb") as file:
            magic = file.read(4)
        size_bytes = path.stat().st_size
    except OSError as error:
        raise RpcmeshError(
            f"cannot read model file {str(path)!r}: {error.strerror}", hint="rpcmesh model ls"
        ) from error
    if magic != b"GGUF":
        raise RpcmeshError(
            f"{str(path)!r} is not a GGUF file: it begins with {magic!r}",
            hint="convert it with llama.cpp's tools first",
        )
    return size_bytes
