"""Model files: a good one gets a name, a bad one a single line that says what is wrong with it."""

from pathlib import Path

import numpy as np
import pytest
from gguf import GGUFWriter

from rpcmesh.errors import RpcmeshError
from rpcmesh.models import library
from rpcmesh.paths import Home


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home").ensure()


@pytest.fixture
def gguf(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.gguf"
    writer = GGUFWriter(path, "llama")
    writer.add_block_count(1)
    writer.add_tensor("blk.0.attn_q.weight", np.ones((64, 64), dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_an_added_model_is_found_by_its_file_name(home: Home, gguf: Path) -> None:
    library.add(home, gguf)
    found = library.find(home, "tiny")
    assert (found.path, found.size_bytes) == (gguf, gguf.stat().st_size)
    assert library.names(home) == ["tiny"]


def test_adding_twice_is_adding_once(home: Home, gguf: Path) -> None:
    assert library.add(home, gguf) == library.add(home, gguf)


def test_a_name_is_not_taken_twice(home: Home, gguf: Path, tmp_path: Path) -> None:
    library.add(home, gguf, "m")
    other = tmp_path / "other.gguf"
    other.write_bytes(gguf.read_bytes())
    with pytest.raises(RpcmeshError, match="exists already"):
        library.add(home, other, "m")


@pytest.mark.parametrize("name", ["../m", "", "a b", ".hidden", "x" * 101])
def test_a_name_that_is_no_file_name_is_refused(home: Home, gguf: Path, name: str) -> None:
    with pytest.raises(RpcmeshError):
        library.add(home, gguf, name or "/")


def test_every_kind_of_truncation_is_one_clear_line(home: Home, gguf: Path, tmp_path: Path) -> None:
    whole = gguf.read_bytes()
    cut = tmp_path / "cut.gguf"
    for length in [*range(4, len(whole) - 4096 * 4, 7), len(whole) - 1]:
        cut.write_bytes(whole[:length])
        with pytest.raises(RpcmeshError, match="cut off or damaged"):
            library.add(home, cut)
    assert library.names(home) == []


@pytest.mark.parametrize(
    ("content", "said"), [(b"", "not a GGUF"), (b"GG", "not a GGUF"), (b"PK\x03\x04zip", "not a GGUF")]
)
def test_what_is_no_gguf_is_said_so(home: Home, tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "x.gguf"
    path.write_bytes(content)
    with pytest.raises(RpcmeshError, match=said):
        library.add(home, path)


def test_a_missing_file_and_an_unknown_name_are_named(home: Home, tmp_path: Path) -> None:
    with pytest.raises(RpcmeshError, match=r"gone\.gguf"):
        library.add(home, tmp_path / "gone.gguf")
    with pytest.raises(RpcmeshError, match="'nobody'"):
        library.find(home, "nobody")


def test_a_model_whose_file_has_gone_is_said_so(home: Home, gguf: Path) -> None:
    library.add(home, gguf)
    gguf.unlink()
    with pytest.raises(RpcmeshError, match="cannot read"):
        library.find(home, "tiny")
