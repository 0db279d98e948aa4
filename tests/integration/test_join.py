"""A node joins over real HTTPS: with the right string it becomes a member, with any other it learns why not."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest
from join_harness import ADDRESS, BUILD, Coordinator, coordinating, join_with, post, refused, request_for

from rpcmesh.coordinator.records import Action, Member, MemberState
from rpcmesh.coordinator.store import Store
from rpcmesh.errors import PeerError, RpcmeshError
from rpcmesh.node.joining import JoinResult
from rpcmesh.paths import Home
from rpcmesh.pki import identity, signing_request
from rpcmesh.pki.tokens import JoinToken


@pytest.fixture
async def coordinator(tmp_path: Path) -> AsyncIterator[Coordinator]:
    async with coordinating(tmp_path / "coordinator") as running:
        yield running


@pytest.fixture
def node(tmp_path: Path) -> Home:
    return Home(tmp_path / "node")


async def test_a_node_joins(coordinator: Coordinator, node: Home) -> None:
    result = await join_with(node, coordinator.invite())
    installed = identity.load(node.identity)
    member = Member("node-1", ADDRESS, BUILD, coordinator.joined[0].os, coordinator.joined[0].joined_at)
    assert (result.mesh, result.node, result.uri) == ("m", "node-1", "spiffe://m/node/node-1")
    assert result.coordinator_uri == "spiffe://m/coordinator"
    assert (installed.uri, installed.not_after) == (result.uri, result.not_after)
    assert coordinator.joined == [member]
    assert coordinator.store.members() == (member,)
    assert [each.serial for each in coordinator.store.certificates(result.uri)] == [installed.serial]
    assert [entry.action for entry in coordinator.store.audit(2)] == [Action.NODE_JOINED, Action.TOKEN_CONSUMED]


async def test_openssl_takes_the_identity_until_it_is_revoked(coordinator: Coordinator, node: Home) -> None:
    await join_with(node, coordinator.invite())
    before = await openssl_verify(node.identity)
    assert before == (0, "cert.pem: OK\n")
    revoked = coordinator.store.revoke_member("node-1", "admin", time.time())
    identity.install_revocations(node.identity, coordinator.authority.sign_revocations(revoked))
    status, printed = await openssl_verify(node.identity)
    assert status != 0
    assert "certificate revoked" in printed


async def openssl_verify(directory: Path) -> tuple[int | None, str]:
    arguments = ["verify", "-x509_strict", "-crl_check", "-CAfile", "ca.pem", "-CRLfile", "revoked.pem", "cert.pem"]
    process = await asyncio.create_subprocess_exec(
        "openssl", *arguments, cwd=directory, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    printed, _ = await process.communicate()
    return process.returncode, printed.decode()


async def test_the_string_may_leave_the_name_open(coordinator: Coordinator, node: Home) -> None:
    assert (await join_with(node, coordinator.invite(None), name="studio")).uri == "spiffe://m/node/studio"


async def test_without_any_name_the_host_names_the_node(coordinator: Coordinator, node: Home) -> None:
    result = await join_with(node, coordinator.invite(None))
    assert [each.name for each in coordinator.store.members()] == [result.node]


async def test_a_name_that_the_string_forbids_is_refused_before_anything_is_sent(
    coordinator: Coordinator, node: Home
) -> None:
    with pytest.raises(RpcmeshError, match="is for node 'node-1', not for 'other'"):
        await join_with(node, coordinator.invite(), name="other")
    assert coordinator.refusals() == []


async def test_a_wrong_secret(coordinator: Coordinator, node: Home) -> None:
    invitation = msgspec.structs.replace(coordinator.invite(), secret=b"x" * 32)
    error = await refused(join_with(node, invitation))
    token = f"the join token {invitation.token_id!r}"
    assert error.message == f"the coordinator refused {token}: it is unknown, expired or already used"
    assert error.hint == "on the coordinator: rpcmesh token create"
    assert coordinator.refusals() == ["bad_mac"]
    assert not identity.exists(node.identity)


async def test_a_wrong_secret_does_not_use_the_token_up(coordinator: Coordinator, node: Home) -> None:
    invitation = coordinator.invite()
    await refused(join_with(node, msgspec.structs.replace(invitation, secret=b"x" * 32)))
    assert (await join_with(node, invitation)).node == "node-1"


async def test_an_unknown_token(coordinator: Coordinator, node: Home) -> None:
    invitation = msgspec.structs.replace(coordinator.invite(), token_id="ffffffffffff")
    assert "unknown, expired or already used" in (await refused(join_with(node, invitation))).message
    assert coordinator.refusals() == ["unknown_token"]


async def test_an_expired_token(coordinator: Coordinator, node: Home) -> None:
    invitation = coordinator.invite()
    coordinator.ahead_s = 600 + 130
    error = await refused(join_with(node, invitation))
    assert error.message == f"the coordinator refused: the join token {invitation.token_id!r} expired 2 min ago"
    assert error.hint == "on the coordinator: rpcmesh token create"
    assert coordinator.refusals() == ["token_expired"]


async def test_a_token_used_before(coordinator: Coordinator, node: Home, tmp_path: Path) -> None:
    invitation = coordinator.invite(None)
    await join_with(node, invitation, name="node-1")
    error = await refused(join_with(Home(tmp_path / "second"), invitation, name="node-2"))
    assert error.message == f"the coordinator refused: the join token {invitation.token_id!r} was already used"
    assert [each.name for each in coordinator.store.members()] == ["node-1"]


async def test_of_two_nodes_with_one_token_exactly_one_joins(coordinator: Coordinator, tmp_path: Path) -> None:
    invitation = coordinator.invite(None)
    tries = (join_with(Home(tmp_path / name), invitation, name=name) for name in ("a", "b", "c", "d"))
    results = await asyncio.gather(*tries, return_exceptions=True)
    assert sum(isinstance(result, JoinResult) for result in results) == 1
    assert len(coordinator.store.members()) == 1


class OvertakenStore(Store):
    """Another process uses every token up in the moment between the decision and the database's last word."""

    overtaken = False

    def find_token(self, token_id: str) -> JoinToken | None:
        found = super().find_token(token_id)
        if not self.overtaken:
            self.overtaken = True
            with Store(self.path) as other:
                assert other.consume_token(token_id, "elsewhere", "joiner", time.time()) is None
        return found


async def test_the_database_has_the_last_word_on_a_token(tmp_path: Path, node: Home) -> None:
    async with coordinating(tmp_path / "overtaken", open_store=OvertakenStore) as overtaken:
        assert (await refused(join_with(node, overtaken.invite()))).message.endswith("was already used")
        assert overtaken.store.members() == ()
        assert overtaken.store.certificates("spiffe://m/node/node-1") == ()


async def test_another_meshs_string(coordinator: Coordinator, node: Home, tmp_path: Path) -> None:
    async with coordinating(tmp_path / "other") as other:
        invitation = msgspec.structs.replace(other.invite(), address=f"127.0.0.1:{coordinator.port}")
        error = await refused(join_with(node, invitation))
        assert isinstance(error, PeerError)
        where = f"'127.0.0.1:{coordinator.port}'"
        assert error.message == f"the certificate authority at {where} is not the one this join string was made for"
        assert coordinator.refusals() == []  # not even the token's id was sent


async def test_another_build_is_told_both_ids(coordinator: Coordinator, node: Home) -> None:
    invitation = coordinator.invite()
    error = await refused(join_with(node, invitation, build="def456"))
    assert "'def456'" in error.message
    assert f"{BUILD!r}" in error.message
    assert "rpcmesh build" in (error.hint or "")
    assert (await join_with(node, invitation)).node == "node-1"  # the token is still good


async def test_a_taken_name(coordinator: Coordinator, node: Home, tmp_path: Path) -> None:
    await join_with(node, coordinator.invite())
    error = await refused(join_with(Home(tmp_path / "second"), coordinator.invite()))
    assert error.message == "the coordinator refused: the node name 'node-1' is taken"
    assert "rpcmesh node revoke node-1" in (error.hint or "")


async def test_a_revoked_nodes_name_can_be_given_again(coordinator: Coordinator, node: Home, tmp_path: Path) -> None:
    await join_with(node, coordinator.invite())
    first = identity.load(node.identity).serial
    coordinator.store.revoke_member("node-1", "admin", time.time())
    await join_with(Home(tmp_path / "second"), coordinator.invite())
    found = coordinator.store.find_member("node-1")
    assert found is not None
    assert found.state is MemberState.JOINED
    assert identity.load(tmp_path / "second" / "identity").revocations.serials == {first}


async def test_a_home_that_has_an_identity_keeps_it(coordinator: Coordinator, node: Home) -> None:
    await join_with(node, coordinator.invite())
    before = identity.load(node.identity)
    error = await refused(join_with(node, coordinator.invite("node-2")))
    assert error.message == "this home already holds the identity 'spiffe://m/node/node-1'"
    assert f"mv {node.identity}" in (error.hint or "")
    assert identity.load(node.identity) == before
    assert len(coordinator.store.members()) == 1


async def test_a_request_changed_on_the_way_gets_a_bare_refusal(coordinator: Coordinator) -> None:
    invitation = coordinator.invite()
    changes = {
        "csr": signing_request.new_key_and_csr()[1],
        "node": "node-2",
        "address": "10.6.6.6:7443",
        "build_id": "def456",
        "mac": bytes(32),
    }
    for name, value in changes.items():
        changed = msgspec.structs.replace(request_for(invitation), **{name: value})
        status, body, _ = await post(coordinator, msgspec.json.encode(changed))
        assert (status, body) == (403, b'{"error":"refused"}'), name
    assert coordinator.refusals() == ["bad_mac"] * len(changes)
    assert coordinator.store.members() == ()


async def test_a_request_for_a_key_that_the_joiner_does_not_hold(coordinator: Coordinator) -> None:
    # Genuine MAC, but the signing request's own signature is broken.
    invitation = coordinator.invite()
    _, csr = signing_request.new_key_and_csr()
    broken = csr[:-1] + bytes([csr[-1] ^ 1])
    status, body, _ = await post(coordinator, msgspec.json.encode(request_for(invitation, broken)))
    assert status == 403
    assert json.loads(body)["message"] == "the signing request is not signed by its own key"
    assert coordinator.refusals() == ["bad_csr"]


@pytest.mark.parametrize(
    ("body", "status"), [(b"", 400), (b"{", 400), (b"[]", 400), (b"{}", 400), (b"\xff", 400), (b" " * 20_000, 413)]
)
async def test_bodies_that_are_no_request(coordinator: Coordinator, body: bytes, status: int) -> None:
    assert (await post(coordinator, body))[0] == status
    assert coordinator.store.members() == ()


async def test_who_asks_too_often_has_to_wait(coordinator: Coordinator, node: Home) -> None:
    statuses = [(await post(coordinator, b"{}"))[0] for _ in range(30)]
    status, _, headers = await post(coordinator, b"{}")
    assert statuses == [400] * 30
    assert status == 429
    assert 0 < int(dict(headers)["Retry-After"]) <= 61
    assert "too many join requests" in (await refused(join_with(node, coordinator.invite()))).message


@pytest.mark.parametrize("address", ["0.0.0.0:7443", "nonsense", "127.0.0.1:0"])
async def test_an_address_nobody_could_dial(coordinator: Coordinator, node: Home, address: str) -> None:
    error = await refused(join_with(node, coordinator.invite(), address=address))
    assert error.message.startswith(f"{address!r} is not an address")
    assert coordinator.refusals() == []
