"""What gguf wrote is read as its own reader reads it, vocabularies left out; anything else is an error of ours."""

from __future__ import annotations

import contextlib
import struct
from pathlib import Path

import gguf
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rpcmesh.plan.gguf_header import HeaderError, parse

N_LAYER = 3


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(N_LAYER)
    writer.add_context_length(128)
    writer.add_head_count_kv([2, 1, 2])
    writer.add_float32("llama.rope.freq_base", 0.5)
    writer.add_bool("general.flag", True)
    writer.add_uint64("general.large", 1 << 40)
    writer.add_token_list([f"word-{n}" for n in range(5000)])
    writer.add_token_scores([0.25] * 5000)
    writer.add_tensor("token_embd.weight", np.zeros((7, 5), dtype=np.float32))
    for layer in range(N_LAYER):
        writer.add_tensor(f"blk.{layer}.attn_q.weight", np.zeros((layer + 1, 3), dtype=np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_settings_are_read_and_vocabularies_passed_over(file: Path) -> None:
    settings = parse(file.read_bytes()).settings

    assert settings["general.architecture"] == "llama"
    assert settings["llama.block_count"] == N_LAYER
    assert settings["llama.attention.head_count_kv"] == (2, 1, 2)
    assert settings["llama.rope.freq_base"] == 0.5
    assert settings["general.flag"] is True
    assert settings["general.large"] == 1 << 40
    assert "tokenizer.ggml.tokens" not in settings
    assert "tokenizer.ggml.scores" not in settings


def test_each_tensor_is_as_large_as_the_package_says_but_for_padding(file: Path) -> None:
    sizes = parse(file.read_bytes()).tensor_bytes
    read = {tensor.name: int(tensor.n_bytes) for tensor in gguf.GGUFReader(file).tensors}

    assert set(sizes) == set(read)
    assert all(0 <= sizes[name] - n_bytes < 32 for name, n_bytes in read.items())


def test_a_header_that_is_cut_off_anywhere_is_an_error(file: Path) -> None:
    whole = file.read_bytes()
    for end in (*range(64), *range(64, len(whole) - 4096, 1009)):
        with pytest.raises(HeaderError):
            parse(whole[:end])


@pytest.mark.parametrize(
    ("head", "says"),
    [
        (b"", "begins with b'GGUF', not with b''"),
        (b"GGML" + bytes(20), "not with b'GGML'"),
        (b"GGUF" + struct.pack("<IQQ", 9, 0, 0), "version 9 is not known"),
        (b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, 1 << 60), "a string of 1152921504606846976 bytes"),
        (b"GGUF" + struct.pack("<IQQQsI", 3, 0, 1, 1, b"k", 77), "type 77 is not known"),
        (b"GGUF" + struct.pack("<IQQQsIIQ", 3, 0, 1, 1, b"k", 9, 9, 1), "an array of arrays"),
        (b"GGUF" + struct.pack("<IQQQsI", 3, 1, 0, 1, b"t", 99), "tensor 't' has 99 dimensions"),
        (b"GGUF" + struct.pack("<IQQQsIQIQ", 3, 1, 0, 1, b"t", 1, 1, 0, 32), "do not fit the file"),
    ],
)
def test_what_is_no_header_is_named(head: bytes, says: str) -> None:
    with pytest.raises(HeaderError, match=says):
        parse(head)


@given(st.binary(max_size=200), st.integers(0, 1 << 64).map(lambda n: struct.pack("<Q", n % (1 << 64))))
def test_no_bytes_end_in_any_other_error(behind: bytes, count: bytes) -> None:
    with contextlib.suppress(HeaderError):
        parse(b"GGUF" + struct.pack("<I", 3) + struct.pack("<Q", 1) + count + behind)
