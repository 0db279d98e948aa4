"""A model's needs are read once a file, again when the file is another, and are unknown where it cannot be read."""

from __future__ import annotations

from pathlib import Path

from rpcmesh.coordinator.needs import Needs


async def test_what_is_known_of_a_file_is_not_read_again(smollm2: Path, tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    path.symlink_to(smollm2)
    needs = Needs()

    first = await needs.of(path)
    again = await needs.of(path)

    assert first is not None
    assert again is first
    assert needs.latest is first


async def test_another_file_of_the_same_name_is_read_anew(smollm2: Path, tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(b"not a model")
    needs = Needs()
    assert await needs.of(path) is None

    path.unlink()
    path.symlink_to(smollm2)

    assert await needs.of(path) is not None


async def test_of_a_file_that_is_not_there_nothing_is_known(smollm2: Path, tmp_path: Path) -> None:
    needs = Needs()
    await needs.of(smollm2)

    assert await needs.of(tmp_path / "gone.gguf") is None
    assert needs.latest is None
