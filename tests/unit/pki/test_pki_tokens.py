"""Join tokens: minted, stored without their secret, and proved by a MAC over all that a joiner claims."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rpcmesh.errors import RpcmeshError
from rpcmesh.pki import tokens
from rpcmesh.pki.tokens import JoinToken, Problem

NOW = 1000.0
CLAIMS: dict[str, Any] = {
    "token_id": "0123456789ab",
    "node": "n",
    "address": "10.0.0.8:7443",
    "build_id": "abc123",
    "os": "Linux",
    "csr_der": b"csr",
}


def test_a_token_lives_ten_minutes_and_stores_no_secret() -> None:
    secret, token = tokens.mint(NOW, "node-1")
    assert (token.node, token.created_at, token.expires_at, token.consumed_at) == ("node-1", NOW, NOW + 600, None)
    assert len(secret) == 32
    stored = msgspec.msgpack.encode(token)
    assert secret not in stored
    assert token.mac_key == tokens.mac_key(token.id, secret)
    assert "mac_key=…" in repr(token)


def test_two_tokens_have_nothing_in_common() -> None:
    (secret, token), (other_secret, other) = tokens.mint(NOW), tokens.mint(NOW)
    assert token.id != other.id
    assert secret != other_secret


def test_a_key_is_bound_to_its_tokens_id() -> None:
    assert tokens.mac_key("0123456789ab", b"s" * 32) != tokens.mac_key("0123456789ac", b"s" * 32)


def test_the_derivation_and_the_mac_never_change() -> None:
    # A node of this version must be able to join a coordinator of the next: these are part of the protocol.
    # Both values were computed from RFC 5869 and RFC 2104 with nothing but HMAC.
    key = tokens.mac_key("0123456789ab", bytes(range(32)))
    assert key.hex() == "6b2a8e2d049845d285ce249f3f46969640b3a122527a1cf1ab74020cbe29b12c"
    assert tokens.mac(key, **CLAIMS).hex() == "1dd015d9d77c3cfcb69b267df49192344f2ea01ccb5517640daed7da717acc1f"


def test_a_bad_node_name_is_refused_when_the_token_is_made() -> None:
    with pytest.raises(RpcmeshError, match="is not a node name"):
        tokens.mint(NOW, "Node 1")


@pytest.mark.parametrize("claim", CLAIMS)
def test_no_claim_can_be_changed(claim: str) -> None:
    genuine = tokens.mac(b"k" * 32, **CLAIMS)
    changed = CLAIMS[claim] + (b"x" if claim == "csr_der" else "x")
    assert not tokens.is_genuine(tokens.mac(b"k" * 32, **{**CLAIMS, claim: changed}), genuine)


@given(st.text(max_size=6), st.text(max_size=6), st.integers(0, 12))
def test_no_two_ways_of_cutting_the_same_text_have_the_same_mac(node: str, address: str, cut: int) -> None:
    both = node + address
    other = {**CLAIMS, "node": both[:cut], "address": both[cut:]}
    same = (both[:cut], both[cut:]) == (node, address)
    equal = tokens.mac(b"k" * 32, **other) == tokens.mac(b"k" * 32, **{**CLAIMS, "node": node, "address": address})
    assert equal is same


@pytest.mark.parametrize(
    ("token", "now", "expected"),
    [
        (None, NOW, Problem.UNKNOWN),
        (JoinToken("a", b"", None, NOW, NOW + 600), NOW, None),
        (JoinToken("a", b"", None, NOW, NOW + 600), NOW + 599.9, None),
        (JoinToken("a", b"", None, NOW, NOW + 600), NOW + 600, Problem.EXPIRED),
        (JoinToken("a", b"", None, NOW, NOW + 600, consumed_at=NOW + 1), NOW + 2, Problem.CONSUMED),
        (JoinToken("a", b"", None, NOW, NOW + 600, consumed_at=NOW + 1), NOW + 700, Problem.CONSUMED),
    ],
)
def test_what_is_wrong_with_a_token(token: JoinToken | None, now: float, expected: Problem | None) -> None:
    assert tokens.problem(token, now) == expected
