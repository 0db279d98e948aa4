"""The database: what it remembers, and what it refuses."""

from __future__ import annotations

import os
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import pytest

from rpcmesh.coordinator import schema
from rpcmesh.coordinator.records import Action, Member, MemberState
from rpcmesh.coordinator.store import NameTakenError, Store
from rpcmesh.errors import RpcmeshError
from rpcmesh.gateway import keys
from rpcmesh.pki import tokens
from rpcmesh.pki.certificate import Certificate
from rpcmesh.pki.tokens import Problem

NOW = 1_800_000_000.0
ADMIN = "admin"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    with Store(tmp_path / "rpcmesh.sqlite3") as store:
        store.found_mesh("m", ADMIN, NOW)
    return tmp_path / "rpcmesh.sqlite3"


def leaf(serial: str, node: str = "n", uri: str | None = None) -> Certificate:
    return Certificate(b"pem", serial, uri or f"spiffe://m/node/{node}", NOW - 300, NOW + 604_800)


def member(name: str = "n", joined_at: float = NOW) -> Member:
    return Member(name, "10.0.0.8:7443", "abc", "Linux", joined_at)


def add_token(store: Store, node: str | None = None) -> str:
    _, token = tokens.mint(NOW, node)
    store.add_token(token, ADMIN, NOW)
    return token.id


def actions(store: Store) -> list[Action]:
    return [entry.action for entry in reversed(store.audit())]


# The file


def test_all_files_of_the_database_are_0600_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        with Store(tmp_path / "db") as store:
            store.found_mesh("m", ADMIN, NOW)
            modes = {path.name: path.stat().st_mode & 0o777 for path in tmp_path.iterdir()}
    finally:
        os.umask(before)
    assert modes == {"db": 0o600, "db-wal": 0o600, "db-shm": 0o600}


def test_a_database_that_others_can_read_is_refused(path: Path) -> None:
    path.chmod(0o644)
    with pytest.raises(RpcmeshError, match="0644"):
        Store(path)


def test_a_file_that_is_no_database_is_refused_and_kept(tmp_path: Path) -> None:
    path = tmp_path / "db"
    path.write_bytes(b"my thesis" * 1000)
    path.chmod(0o600)
    with pytest.raises(RpcmeshError, match="file is not a database"):
        Store(path)
    assert path.read_bytes() == b"my thesis" * 1000


def test_a_newer_database_is_refused(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute(f"PRAGMA user_version = {len(schema.MIGRATIONS) + 1}")
    connection.close()
    with pytest.raises(RpcmeshError, match="newer rpcmesh"):
        Store(path)


def test_everything_is_durable_and_strict(path: Path) -> None:
    connection = schema.connect(path)
    asked = ("journal_mode", "synchronous", "foreign_keys", "user_version")
    found = [connection.execute(f"PRAGMA {name}").fetchone()[0] for name in asked]
    tables = connection.execute("SELECT name, strict FROM pragma_table_list WHERE schema = 'main' AND type = 'table'")
    loose = [row["name"] for row in tables if not row["strict"] and not row["name"].startswith("sqlite_")]
    connection.close()
    assert found == ["wal", 2, 1, len(schema.MIGRATIONS)]
    assert loose == []


# The mesh


def test_a_mesh_is_founded_once(path: Path) -> None:
    with Store(path) as store:
        with pytest.raises(RpcmeshError, match="already holds mesh 'm'"):
            store.found_mesh("other", ADMIN, NOW)
        assert (store.mesh().name, store.mesh().founded_at, store.mesh().crl_number) == ("m", NOW, 1)


def test_a_home_without_a_mesh_says_what_to_run(tmp_path: Path) -> None:
    with Store(tmp_path / "db") as store, pytest.raises(RpcmeshError) as caught:
        store.mesh()
    assert caught.value.hint == "rpcmesh init"


# Join tokens


def test_a_token_is_kept_as_it_was_minted(path: Path) -> None:
    _, token = tokens.mint(NOW, "n")
    with Store(path) as store:
        store.add_token(token, ADMIN, NOW)
    with Store(path) as store:
        assert store.find_token(token.id) == token
        assert store.find_token("ffffffffffff") is None


def test_a_token_is_consumed_once(path: Path) -> None:
    with Store(path) as store:
        token_id = add_token(store)
        assert store.consume_token(token_id, "n", "joiner", NOW + 1) is None
        assert store.consume_token(token_id, "n", "joiner", NOW + 2) is Problem.CONSUMED
        found = store.find_token(token_id)
        assert found is not None
        assert found.consumed_at == NOW + 1
        assert actions(store)[1:] == [Action.TOKEN_CREATED, Action.TOKEN_CONSUMED]


@pytest.mark.parametrize(("after_s", "expected"), [(599.9, None), (600.0, Problem.EXPIRED), (9e9, Problem.EXPIRED)])
def test_a_token_is_good_for_ten_minutes(path: Path, after_s: float, expected: Problem | None) -> None:
    with Store(path) as store:
        assert store.consume_token(add_token(store), "n", "joiner", NOW + after_s) is expected


def test_a_token_nobody_made_is_unknown(path: Path) -> None:
    with Store(path) as store:
        assert store.consume_token("ffffffffffff", "n", "joiner", NOW) is Problem.UNKNOWN


def test_of_many_threads_exactly_one_gets_a_token(path: Path) -> None:
    with Store(path) as store, ThreadPoolExecutor(8) as pool:
        token_id = add_token(store)
        results = list(pool.map(lambda _: store.consume_token(token_id, "n", "joiner", NOW), range(40)))
    assert results.count(None) == 1
    assert results.count(Problem.CONSUMED) == 39


# Members


def test_an_admitted_member_is_remembered_with_its_certificate(path: Path) -> None:
    with Store(path) as store:
        store.admit(member(), leaf("a1"), "joiner", NOW)
    with Store(path) as store:
        assert store.members() == (member(),)
        assert store.is_live("n")
        assert [each.serial for each in store.certificates("spiffe://m/node/n")] == ["a1"]


def test_a_live_members_name_is_taken(path: Path) -> None:
    with Store(path) as store:
        store.admit(member(), leaf("a1"), "joiner", NOW)
        with pytest.raises(NameTakenError, match="'n' is taken") as caught:
            store.admit(member(), leaf("a2"), "joiner", NOW)
        assert "rpcmesh node revoke n" in (caught.value.hint or "")
        assert [each.serial for each in store.certificates("spiffe://m/node/n")] == ["a1"]


def test_revoking_lists_every_certificate_of_the_member_and_of_no_other(path: Path) -> None:
    with Store(path) as store:
        store.admit(member(), leaf("a1"), "joiner", NOW)
        store.record_certificate(leaf("a2"), Action.CERTIFICATE_RENEWED, "coordinator", NOW + 1)
        store.admit(member("n2"), leaf("b1", "n2"), "joiner", NOW)
        revoked = store.revoke_member("n", ADMIN, NOW + 5)
        found = store.find_member("n")
        assert revoked.serials == {"a1", "a2"}
        assert {entry.at for entry in revoked.revoked} == {NOW + 5}
        assert found is not None
        assert found.state is MemberState.REVOKED
        assert not store.is_live("n")
        assert store.is_live("n2")


def test_every_revocation_has_a_greater_number_and_a_later_date(path: Path) -> None:
    with Store(path) as store:
        lists = [store.revocations()]
        for name in ("a", "b", "c"):
            store.admit(member(name), leaf(name, name), "joiner", NOW)
            lists.append(store.revoke_member(name, ADMIN, NOW))  # all in the same second
    assert [each.number for each in lists] == [1, 2, 3, 4]
    assert [each.updated_at - NOW for each in lists] == [-300, -299, -298, -297]
    assert [len(each.revoked) for each in lists] == [0, 1, 2, 3]


def test_the_list_is_the_same_when_asked_again_later(path: Path) -> None:
    with Store(path) as store:
        store.admit(member(), leaf("a1"), "joiner", NOW)
        revoked = store.revoke_member("n", ADMIN, NOW)
    with Store(path) as store:
        assert store.revocations() == revoked


@pytest.mark.parametrize("name", ["nobody", "gone"])
def test_who_is_no_live_member_cannot_be_revoked(path: Path, name: str) -> None:
    with Store(path) as store:
        store.admit(member("gone"), leaf("a1", "gone"), "joiner", NOW)
        store.revoke_member("gone", ADMIN, NOW)
        with pytest.raises(RpcmeshError, match="not a live member"):
            store.revoke_member(name, ADMIN, NOW)
        assert store.revocations().number == 2


def test_a_drained_member_stays_drained_until_it_is_resumed_and_each_step_is_told_once(path: Path) -> None:
    with Store(path) as store:
        store.admit(member(), leaf("01"), ADMIN, NOW)
        store.drain_member("n", ADMIN, NOW + 1)
        store.drain_member("n", ADMIN, NOW + 2)
    with Store(path) as store:
        drained = store.find_member("n")
        store.resume_member("n", ADMIN, NOW + 3)
        store.resume_member("n", ADMIN, NOW + 4)
        resumed = store.find_member("n")
        told = actions(store)[-2:]

    assert (drained and drained.drained_at, resumed and resumed.drained_at) == (NOW + 1, None)
    assert told == [Action.NODE_DRAINED, Action.NODE_RESUMED]


def test_only_a_live_member_can_be_drained(path: Path) -> None:
    with Store(path) as store:
        store.admit(member(), leaf("01"), ADMIN, NOW)
        store.revoke_member("n", ADMIN, NOW)
        for name in ("n", "stranger"):
            with pytest.raises(RpcmeshError, match=f"'{name}' is not a live member"):
                store.drain_member(name, ADMIN, NOW)


def test_a_database_of_the_first_schema_becomes_one_of_this_and_its_members_are_not_drained(tmp_path: Path) -> None:
    old = tmp_path / "db"
    os.close(os.open(old, os.O_CREAT, 0o600))
    with sqlite3.connect(old) as connection:
        for statement in schema.MIGRATIONS[0]:
            connection.execute(statement)
        connection.execute("PRAGMA user_version = 1")
        connection.execute("INSERT INTO members VALUES ('n', '10.0.0.8:7443', 'abc', 'Linux', 1.0, 'joined')")
    connection.close()

    with Store(old) as store:
        assert store.members() == (member(joined_at=1.0),)


def test_a_revoked_member_cannot_renew(path: Path) -> None:
    with Store(path) as store:
        store.admit(member(), leaf("a1"), "joiner", NOW)
        store.revoke_member("n", ADMIN, NOW)
        with pytest.raises(RpcmeshError, match="not a live member"):
            store.record_certificate(leaf("a2"), Action.CERTIFICATE_RENEWED, "coordinator", NOW)
        assert len(store.certificates("spiffe://m/node/n")) == 1


def test_a_revoked_members_name_can_be_given_again(path: Path) -> None:
    with Store(path) as store:
        store.admit(member(), leaf("a1"), "joiner", NOW)
        store.revoke_member("n", ADMIN, NOW)
        store.admit(member(joined_at=NOW + 9), leaf("a2"), "joiner", NOW + 9)
        assert store.members() == (member(joined_at=NOW + 9),)
        assert store.revocations().serials == {"a1"}


def test_the_coordinators_and_the_gateways_certificates_are_recorded(path: Path) -> None:
    with Store(path) as store:
        own = leaf("c1", uri="spiffe://m/coordinator")
        store.record_certificate(own, Action.CERTIFICATE_ISSUED, "coordinator", NOW)
        gateway = msgspec.structs.replace(leaf("d1"), uri=None)
        store.record_certificate(gateway, Action.CERTIFICATE_ISSUED, "coordinator", NOW)
        assert [each.serial for each in store.certificates("spiffe://m/coordinator")] == ["c1"]
        assert [entry.subject for entry in store.audit(2)] == ["gateway", "spiffe://m/coordinator"]


# API keys


def test_keys_are_found_listed_and_revoked(path: Path) -> None:
    _, one = keys.mint("one", NOW, expires_at=NOW + 60, models=("a", "b"))
    secret, two = keys.mint("two", NOW + 1)
    with Store(path) as store:
        store.add_key(one, ADMIN, NOW)
        store.add_key(two, ADMIN, NOW)
    with Store(path) as store:
        assert store.keys() == (one, two)
        assert store.find_key(one.id) == one
        assert keys.check(secret, store, NOW + 2) == two
        store.revoke_key(two.id, ADMIN, NOW + 3)
        assert keys.check(secret, store, NOW + 4) == keys.Refusal(keys.Reason.REVOKED, two.id)
        assert actions(store)[1:] == [Action.KEY_CREATED, Action.KEY_CREATED, Action.KEY_REVOKED]


def test_a_key_is_revoked_once(path: Path) -> None:
    _, key = keys.mint("one", NOW)
    with Store(path) as store:
        store.add_key(key, ADMIN, NOW)
        store.revoke_key(key.id, ADMIN, NOW + 1)
        with pytest.raises(RpcmeshError, match="is revoked already"):
            store.revoke_key(key.id, ADMIN, NOW + 2)
        with pytest.raises(RpcmeshError, match="does not exist"):
            store.revoke_key("ffffffffffff", ADMIN, NOW)
        found = store.find_key(key.id)
        assert found is not None
        assert found.revoked_at == NOW + 1


def test_no_secret_is_in_the_files(path: Path) -> None:
    secret, key = keys.mint("one", NOW)
    token_secret, token = tokens.mint(NOW)
    with Store(path) as store:
        store.add_key(key, ADMIN, NOW)
        store.add_token(token, ADMIN, NOW)
        content = b"".join(each.read_bytes() for each in path.parent.iterdir())
    assert key.id.encode() in content
    assert secret.encode() not in content
    assert secret.split("-", 2)[2].encode() not in content
    assert token_secret not in content


# Audit


def test_the_audit_trail_tells_who_did_what(path: Path) -> None:
    with Store(path) as store:
        store.append_audit(NOW, "joiner 10.0.0.9", Action.JOIN_REFUSED, "0123456789ab", reason="bad_mac")
        latest = store.audit(1)[0]
    assert (latest.at, latest.actor, latest.action) == (NOW, "joiner 10.0.0.9", Action.JOIN_REFUSED)
    assert (latest.subject, latest.detail) == ("0123456789ab", {"reason": "bad_mac"})


@pytest.mark.parametrize("statement", ["DELETE FROM audit", "UPDATE audit SET actor = 'nobody'"])
def test_the_audit_trail_cannot_be_rewritten(path: Path, statement: str) -> None:
    connection = schema.connect(path)
    with pytest.raises(sqlite3.IntegrityError, match="append-only"):
        connection.execute(statement)
    connection.close()


def test_what_is_refused_leaves_no_trace_of_having_happened(path: Path) -> None:
    with Store(path) as store:
        before = actions(store)
        with pytest.raises(RpcmeshError):
            store.revoke_member("nobody", ADMIN, NOW)
        assert actions(store) == before


def test_what_fails_half_way_is_undone(path: Path) -> None:
    with Store(path) as store:
        store.admit(member(), leaf("a1"), "joiner", NOW)
        with pytest.raises(RpcmeshError, match="UNIQUE constraint failed"):
            store.admit(member("n2"), leaf("a1", "n2"), "joiner", NOW)  # the member is written before its certificate
        assert store.members() == (member(),)
        assert actions(store) == [Action.MESH_FOUNDED, Action.NODE_JOINED]
