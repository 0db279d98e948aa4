"""The join string: what goes in comes out, and nothing but all of it is accepted."""

from __future__ import annotations

import re
import shlex

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rpcmesh.errors import RpcmeshError
from rpcmesh.pki import join_string, names, tokens
from rpcmesh.pki.join_string import JoinString

SAMPLE = JoinString("10.0.0.7:8443", "sha256:" + "ab" * 32, "0123456789ab", b"s" * 32, "node-1")

strings = st.builds(
    JoinString,
    address=st.from_regex(r"[a-z0-9.]{1,60}:[0-9]{1,5}", fullmatch=True) | st.just("[fd00::7]:8443"),
    pin=st.binary(min_size=32, max_size=32).map(lambda digest: f"sha256:{digest.hex()}"),
    token_id=st.from_regex(tokens.ID, fullmatch=True),
    secret=st.binary(min_size=32, max_size=32),
    node=st.none() | st.from_regex(re.compile(names.NAME, re.ASCII), fullmatch=True),
)


@given(strings)
def test_what_goes_in_comes_out(join: JoinString) -> None:
    assert join_string.decode(join_string.encode(join)) == join


@given(strings)
def test_it_is_one_word_to_a_shell_and_no_option(join: JoinString) -> None:
    text = join_string.encode(join)
    assert shlex.quote(text) == text
    assert re.fullmatch(r"rpcmesh1\.[A-Za-z0-9_-]+", text)


def test_a_pastes_white_space_is_dropped() -> None:
    assert join_string.decode(f"  {join_string.encode(SAMPLE)}\r\n") == SAMPLE


@given(strings)
def test_every_truncation_is_refused(join: JoinString) -> None:
    text = join_string.encode(join)
    for length in range(len(text)):
        with pytest.raises(RpcmeshError, match="cut off or mistyped") as caught:
            join_string.decode(text[:length])
        assert "rpcmesh token create" in (caught.value.hint or "")


def test_every_mistyped_character_is_refused() -> None:
    text = join_string.encode(SAMPLE)
    for place in range(len("rpcmesh1."), len(text)):
        for typed in "AZaz09-_=.+/ \n" + chr(ord(text[place]) ^ 1) + "é":
            if typed == text[place]:
                continue
            with pytest.raises(RpcmeshError, match="cut off or mistyped"):
                join_string.decode(text[:place] + typed + text[place + 1 :])


def test_more_than_the_string_is_refused() -> None:
    text = join_string.encode(SAMPLE)
    for more in ("A", "=", "AAAA", text, f" {text}"):
        with pytest.raises(RpcmeshError, match="cut off or mistyped"):
            join_string.decode(text + more)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("rpcmesh2.AAAA", "made by another version"),
        ("rpcmesh-0123456789ab-xyz", "does not begin with"),
        ("https://10.0.0.7", "does not begin with"),
    ],
)
def test_other_strings_are_told_apart(text: str, message: str) -> None:
    with pytest.raises(RpcmeshError, match=message):
        join_string.decode(text)


def test_no_error_and_no_repr_shows_the_secret() -> None:
    text = join_string.encode(SAMPLE)
    for damaged in (text[:-5], text[5:], text + "x"):
        with pytest.raises(RpcmeshError) as caught:
            join_string.decode(damaged)
        assert damaged[10:40] not in f"{caught.value.message} {caught.value.hint}"
        assert caught.value.__cause__ is None
    assert "ssss" not in repr(SAMPLE)
