"""A key is good for its owner alone, while it lasts."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rpcmesh.gateway.keys import ApiKey, Reason, Refusal, check, hash_secret, mint, parse, verify

NOW = 1_700_000_000.0


@dataclass
class Store:
    keys: dict[str, ApiKey] = field(default_factory=dict)

    def find_key(self, key_id: str) -> ApiKey | None:
        return self.keys.get(key_id)


def stored(key: ApiKey) -> Store:
    return Store({key.id: key})


def test_a_minted_key_is_accepted() -> None:
    secret, key = mint("laptop", NOW, models=("tiny",))
    assert check(secret, stored(key), NOW) == key
    assert (key.name, key.created_at, key.models) == ("laptop", NOW, ("tiny",))


def test_the_string_has_the_documented_shape_and_the_stored_key_does_not_hold_the_secret() -> None:
    secret, key = mint("laptop", NOW)
    head, key_id, tail = secret.split("-", 2)
    assert (head, key_id, len(tail)) == ("rpcmesh", key.id, 43)
    assert tail.encode() not in msgspec.msgpack.encode(key)
    assert key.secret_hash == hashlib.sha256(tail.encode()).digest()


def test_two_keys_share_nothing() -> None:
    (one, key_one), (two, key_two) = mint("a", NOW), mint("a", NOW)
    assert one != two
    assert key_one.id != key_two.id
    assert check(one, stored(key_two), NOW) == Refusal(Reason.UNKNOWN, key_one.id)


def test_a_known_id_with_another_secret_is_refused() -> None:
    _, key = mint("a", NOW)
    other, _ = mint("b", NOW)
    forged = f"rpcmesh-{key.id}-{other[-43:]}"
    assert check(forged, stored(key), NOW) == Refusal(Reason.MISMATCH, key.id)


@pytest.mark.parametrize(
    ("expires_at", "revoked_at", "reason"),
    [
        (NOW + 1, None, None),
        (NOW, None, Reason.EXPIRED),
        (NOW - 1, None, Reason.EXPIRED),
        (None, NOW + 1, None),
        (None, NOW, Reason.REVOKED),
        (NOW - 1, NOW - 2, Reason.REVOKED),
    ],
)
def test_a_key_counts_until_it_expires_or_is_revoked(
    expires_at: float | None, revoked_at: float | None, reason: Reason | None
) -> None:
    secret, key = mint("a", NOW - 9, expires_at=expires_at)
    key = msgspec.structs.replace(key, revoked_at=revoked_at)
    expected = key if reason is None else Refusal(reason, key.id)
    assert check(secret, stored(key), NOW) == expected


def test_only_the_owner_learns_in_the_log_that_a_key_is_revoked() -> None:
    _, key = mint("a", NOW)
    key = msgspec.structs.replace(key, revoked_at=NOW)
    assert check(f"rpcmesh-{key.id}-{'A' * 43}", stored(key), NOW) == Refusal(Reason.MISMATCH, key.id)


@pytest.mark.parametrize("presented", [None, ""])
def test_no_key_is_missing(presented: str | None) -> None:
    assert check(presented, Store(), NOW) == Refusal(Reason.MISSING)


@settings(deadline=None)
@given(st.text(max_size=80))
def test_any_other_text_is_refused_without_a_lookup(text: str) -> None:
    if parse(text) is None:
        assert check(text, Store(), NOW).reason in {Reason.MISSING, Reason.MALFORMED}  # type: ignore[union-attr]


@settings(deadline=None)
@given(st.integers(min_value=0, max_value=63), st.characters())
def test_changing_any_one_character_breaks_a_key(position: int, character: str) -> None:
    secret, key = mint("a", NOW)
    position %= len(secret)
    forged = secret[:position] + character + secret[position + 1 :]
    assert (check(forged, stored(key), NOW) == key) == (forged == secret)


@settings(deadline=None)
@given(st.from_regex(r"[A-Za-z0-9_-]{43}", fullmatch=True), st.from_regex(r"[A-Za-z0-9_-]{43}", fullmatch=True))
def test_a_secret_verifies_against_its_own_hash_only(one: str, two: str) -> None:
    key = ApiKey(id="0" * 12, name="a", secret_hash=hash_secret(one), created_at=NOW)
    assert verify(key, two) == (one == two)


def test_taking_a_key_apart_never_shows_its_secret() -> None:
    secret, _ = mint("a", NOW)
    assert secret[-43:] not in repr(parse(secret))


@pytest.mark.parametrize(("models", "allowed"), [((), True), (("tiny",), True), (("other",), False)])
def test_a_key_without_models_may_use_all(models: tuple[str, ...], allowed: bool) -> None:
    assert mint("a", NOW, models=models)[1].allows("tiny") == allowed
