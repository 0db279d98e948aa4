"""Where llama-server lies once it was compiled. Compiling it takes minutes and is left to ``make bench-rival``."""

from __future__ import annotations

from pathlib import Path

from rpcmesh.native_build import rival


def test_it_is_not_there_before_it_was_built(tmp_path: Path) -> None:
    assert rival.built(tmp_path, "cpu") is None


def test_what_was_built_is_found_again(tmp_path: Path) -> None:
    place = rival.place(tmp_path, "cpu")
    place.mkdir(parents=True)

    assert rival.built(tmp_path, "cpu") == place
    assert rival.built(tmp_path, "vulkan") is None


def test_it_lies_in_the_cache_beside_no_build_that_serves(tmp_path: Path) -> None:
    assert rival.place(tmp_path, "cpu").parent == tmp_path / "bench"
