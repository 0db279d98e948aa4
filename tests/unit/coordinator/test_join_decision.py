"""Who is admitted, as a table: one valid request, and what one change makes of it."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from rpcmesh.coordinator.join import Accept, Reason, Refuse, decide_join
from rpcmesh.pki import messages, signing_request, tokens
from rpcmesh.pki.messages import JoinRequest
from rpcmesh.pki.tokens import JoinToken

NOW = 1000.0
SECRET, TOKEN = tokens.mint(NOW, "node-1")
_, CSR = signing_request.new_key_and_csr()
STRANGERS = {Reason.UNKNOWN_TOKEN, Reason.BAD_MAC}


def request(secret: bytes = SECRET, **changes: Any) -> JoinRequest:
    """A request whose MAC is right for ``secret`` and for whatever was changed."""
    plain = JoinRequest(TOKEN.id, "node-1", "10.0.0.8:7443", "abc123", "Linux", CSR, mac=b"")
    changed = msgspec.structs.replace(plain, **changes)
    return msgspec.structs.replace(changed, mac=messages.mac_of(changed, tokens.mac_key(TOKEN.id, secret)))


def decide(
    wanted: JoinRequest, token: JoinToken | None = TOKEN, now: float = NOW + 1, *, name_taken: bool = False
) -> Accept | Refuse:
    return decide_join(token, wanted, now, build_id="abc123", name_taken=name_taken)


def test_a_valid_request_is_accepted() -> None:
    assert decide(request()) == Accept(TOKEN)


def test_a_token_without_a_name_lets_the_node_choose() -> None:
    free = msgspec.structs.replace(TOKEN, node=None)
    assert decide(request(node="any"), free) == Accept(free)


CHANGES: dict[str, tuple[JoinRequest, JoinToken | None, float, bool, Reason]] = {
    "unknown token": (request(), None, NOW, False, Reason.UNKNOWN_TOKEN),
    "wrong secret": (request(b"x" * 32), TOKEN, NOW, False, Reason.BAD_MAC),
    "expired": (request(), TOKEN, NOW + 780, False, Reason.TOKEN_EXPIRED),
    "consumed": (request(), msgspec.structs.replace(TOKEN, consumed_at=NOW), NOW, False, Reason.TOKEN_CONSUMED),
    "another node": (request(node="node-2"), TOKEN, NOW, False, Reason.OTHER_NODE),
    "all interfaces": (request(address="0.0.0.0:7443"), TOKEN, NOW, False, Reason.BAD_ADDRESS),
    "another build": (request(build_id="def456"), TOKEN, NOW, False, Reason.OTHER_BUILD),
    "name taken": (request(), TOKEN, NOW, True, Reason.NAME_TAKEN),
    "bad csr": (request(csr=CSR[:-1]), TOKEN, NOW, False, Reason.BAD_CSR),
}


@pytest.mark.parametrize("change", CHANGES)
def test_one_change_refuses(change: str) -> None:
    wanted, token, now, name_taken, reason = CHANGES[change]
    decided = decide(wanted, token, now, name_taken=name_taken)
    assert isinstance(decided, Refuse)
    assert decided.reason is reason
    # Who does not hold the secret is told nothing; who does is told what to mend.
    assert (decided.message is None) is (reason in STRANGERS)


@pytest.mark.parametrize("change", CHANGES)
def test_whatever_is_wrong_a_stranger_learns_nothing(change: str) -> None:
    wanted, token, now, name_taken, _ = CHANGES[change]
    forged = msgspec.structs.replace(wanted, mac=bytes(32))
    decided = decide(forged, token, now, name_taken=name_taken)
    assert decided in (Refuse(Reason.BAD_MAC), Refuse(Reason.UNKNOWN_TOKEN))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("node", "node-2"),
        ("address", "10.0.0.9:7443"),
        ("build_id", "abc124"),
        ("os", "Darwin"),
        ("csr", signing_request.new_key_and_csr()[1]),
    ],
)
def test_nothing_can_be_changed_on_the_way(field: str, value: object) -> None:
    changed = msgspec.structs.replace(request(), **{field: value})
    assert decide(changed, msgspec.structs.replace(TOKEN, node=None)) == Refuse(Reason.BAD_MAC)


def test_the_mac_under_an_all_zero_key_does_not_open_the_door() -> None:
    wanted = request()
    mac = messages.mac_of(wanted, bytes(32))
    assert decide(msgspec.structs.replace(wanted, mac=mac), None) == Refuse(Reason.UNKNOWN_TOKEN)


def test_messages_name_both_builds_and_the_age() -> None:
    build = decide(request(build_id="def456"))
    expired = decide(request(), now=NOW + 780)
    assert isinstance(build, Refuse)
    assert isinstance(expired, Refuse)
    assert "'def456'" in (build.message or "")
    assert "'abc123'" in (build.message or "")
    assert expired.message == f"the join token {TOKEN.id!r} expired 3 min ago"
    assert expired.hint == "on the coordinator: rpcmesh token create"


@pytest.mark.parametrize("address", ["10.0.0.8:7443", "studio-1.local:1", "[fd00::8]:65535", "127.0.0.1:7443"])
def test_addresses_that_can_be_dialled(address: str) -> None:
    assert messages.is_dialable(address)


@pytest.mark.parametrize(
    "address",
    [
        "",
        "10.0.0.8",
        "10.0.0.8:",
        "10.0.0.8:0",
        "10.0.0.8:65536",
        "10.0.0.8:7443 x",
        "10.0.0.8:7443\n",
        "10.0.0.8:7443\nx y z",
        "a b:1",
        "a#:1",
        "0.0.0.0:7443",
        "[::]:7443",
        "[zz]:7443",
        "[fe80::1%en0]:7443",
        "fd00::8:7443",
        "ä:1",
        "[abc]:1",
    ],
)
def test_addresses_that_cannot(address: str) -> None:
    assert not messages.is_dialable(address)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("token_id", "0123456789AB"),
        ("token_id", "0123456789ab\n"),
        ("node", "../x"),
        ("node", "a\n"),
        ("address", "10.0.0.8:7443\nevil.sock 10.0.0.1:22 x y"),
        ("build_id", "xyz"),
        ("build_id", ""),
        ("os", "Linux\x1b[2J"),
        ("os", "x" * 129),
        ("csr", b"x" * 4097),
        ("mac", b"x" * 31),
    ],
)
def test_requests_are_parsed_strictly(field: str, value: object) -> None:
    body = msgspec.json.encode(msgspec.structs.replace(request(), **{field: value}))
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(body, type=JoinRequest)


def test_a_request_comes_through_json_as_it_was() -> None:
    assert msgspec.json.decode(msgspec.json.encode(request()), type=JoinRequest) == request()


def test_a_request_with_more_in_it_is_refused() -> None:
    body = msgspec.json.encode({**msgspec.to_builtins(request()), "uri": "spiffe://m/coordinator"})
    with pytest.raises(msgspec.ValidationError, match="uri"):
        msgspec.json.decode(body, type=JoinRequest)
