"""The identity on disk: installed once, renewed in place, and whole again after a crash at any step."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from rpcmesh.errors import PeerError, RpcmeshError
from rpcmesh.pki import identity, signing_request
from rpcmesh.pki.authority import Authority
from rpcmesh.pki.identity import Identity
from rpcmesh.pki.names import Principal
from rpcmesh.pki.revocation import Reason, Revocations, RevocationsRefusedError, Revoked

URI = "spiffe://m/node/n"


def revocations(number: int, *serials: str) -> Revocations:
    return Revocations(number, 1_799_999_000.0 + number, tuple(Revoked(serial, 1_799_999_000.0) for serial in serials))


@pytest.fixture
def install(authority: Authority, tmp_path: Path, now: float) -> Callable[..., Identity]:
    def installed(uri: str = URI, name: str = "identity") -> Identity:
        key, csr = signing_request.new_key_and_csr()
        leaf = authority.sign_csr(csr, uri, now)
        crl = authority.sign_revocations(revocations(1))
        return identity.install(tmp_path / name, key, leaf.pem, authority.ca_pem, crl)

    return installed


@pytest.fixture
def here(install: Callable[..., Identity], tmp_path: Path) -> Path:
    install()
    return tmp_path / "identity"


def names_in(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def test_what_was_installed_is_loaded(install: Callable[..., Identity], tmp_path: Path, now: float) -> None:
    installed = install()
    assert identity.load(tmp_path / "identity") == installed
    assert (installed.uri, installed.principal) == (URI, Principal("m", "n"))
    assert (installed.not_before, installed.not_after) == (now - 300, now + 7 * 86_400)
    assert installed.revocations.number == 1


def test_the_tunnels_four_files_are_there_and_private(here: Path) -> None:
    assert names_in(here) == ["ca.pem", "cert.pem", "key.pem", "revoked.pem"]
    assert {path.stat().st_mode & 0o777 for path in here.iterdir()} == {0o600}
    assert here.stat().st_mode & 0o777 == 0o700


def test_a_second_identity_is_refused(here: Path, install: Callable[..., Identity]) -> None:
    before = identity.load(here)
    with pytest.raises(RpcmeshError, match="already holds an identity"):
        install("spiffe://m/node/other")
    assert identity.load(here) == before


def test_parts_that_do_not_belong_together_leave_nothing_behind(
    authority: Authority, foreign: Authority, tmp_path: Path, now: float
) -> None:
    key, csr = signing_request.new_key_and_csr()
    other_key, _ = signing_request.new_key_and_csr()
    leaf, crl = authority.sign_csr(csr, URI, now).pem, authority.sign_revocations(revocations(1))
    gateway = authority.sign_gateway(signing_request.checked_public_key(csr), ("10.0.0.1",), now).pem
    cases = {
        "another key": (other_key, leaf, authority.ca_pem, crl),
        "another authority": (key, leaf, foreign.ca_pem, crl),
        "another authority's list": (key, leaf, authority.ca_pem, foreign.sign_revocations(revocations(1))),
        "a leaf of no member": (key, gateway, authority.ca_pem, crl),
        "no certificate": (key, b"", authority.ca_pem, crl),
    }
    for name, parts in cases.items():
        with pytest.raises(RpcmeshError):
            identity.install(tmp_path / "identity", *parts)
        assert not (tmp_path / "identity").exists(), name


def test_a_missing_identity_says_what_to_run(tmp_path: Path) -> None:
    with pytest.raises(RpcmeshError) as caught:
        identity.load(tmp_path / "identity")
    assert "rpcmesh join STRING" in (caught.value.hint or "")


def test_a_key_that_others_can_read_is_not_used(here: Path) -> None:
    (here / "key.pem").chmod(0o640)
    with pytest.raises(RpcmeshError, match="0640"):
        identity.load(here)


def test_a_damaged_file_of_ours_is_not_called_a_peers_fault(here: Path) -> None:
    (here / "cert.pem").write_bytes(b"x")
    with pytest.raises(RpcmeshError, match="is damaged") as caught:
        identity.load(here)
    assert not isinstance(caught.value, PeerError)


def test_renewal_swaps_key_and_certificate(here: Path, authority: Authority, now: float) -> None:
    before, old_key = identity.load(here), (here / "key.pem").read_bytes()
    csr = identity.begin_renewal(here)
    assert identity.load(here) == before  # the old pair serves while the answer is awaited
    after = identity.finish_renewal(here, authority.sign_csr(csr, URI, now + 1000).pem)
    assert (after.uri, after.not_after) == (URI, before.not_after + 1000)
    assert after.serial != before.serial
    assert identity.load(here) == after
    assert (here / "key.pem").read_bytes() != old_key
    assert names_in(here) == ["ca.pem", "cert.pem", "key.pem", "revoked.pem"]


def test_asking_again_asks_for_the_same_key(here: Path, authority: Authority, now: float) -> None:
    identity.begin_renewal(here)
    first = (here / "key.new.pem").read_bytes()
    csr = identity.begin_renewal(here)
    assert (here / "key.new.pem").read_bytes() == first
    assert (here / "key.new.pem").stat().st_mode & 0o777 == 0o600
    identity.finish_renewal(here, authority.sign_csr(csr, URI, now).pem)
    assert (here / "key.pem").read_bytes() == first


def test_answers_that_do_not_fit_change_nothing(
    here: Path, authority: Authority, foreign: Authority, now: float
) -> None:
    before = identity.load(here)
    csr = identity.begin_renewal(here)
    _, other_csr = signing_request.new_key_and_csr()
    refused = [
        b"x",
        authority.sign_csr(other_csr, URI, now).pem,
        authority.sign_csr(csr, "spiffe://m/node/other", now).pem,
        authority.sign_csr(csr, "spiffe://m/coordinator", now).pem,
        foreign.sign_csr(csr, URI, now).pem,
        (here / "cert.pem").read_bytes(),
    ]
    for answer in refused:
        with pytest.raises(PeerError):
            identity.finish_renewal(here, answer)
        assert identity.load(here) == before
    assert identity.finish_renewal(here, authority.sign_csr(csr, URI, now).pem).uri == URI


def test_an_answer_nobody_asked_for_is_refused(here: Path, authority: Authority, now: float) -> None:
    _, csr = signing_request.new_key_and_csr()
    with pytest.raises(PeerError, match="none was asked for"):
        identity.finish_renewal(here, authority.sign_csr(csr, URI, now).pem)


@pytest.mark.parametrize("renamed", [(), ("key",)], ids=["before the first rename", "between the renames"])
def test_a_swap_cut_short_is_finished_at_the_next_load(
    here: Path, authority: Authority, now: float, renamed: tuple[str, ...]
) -> None:
    leaf = authority.sign_csr(identity.begin_renewal(here), URI, now)
    (here / "cert.new.pem").write_bytes(leaf.pem)
    for name in renamed:
        (here / f"{name}.new.pem").rename(here / f"{name}.pem")
    assert identity.load(here).serial == leaf.serial
    assert names_in(here) == ["ca.pem", "cert.pem", "key.pem", "revoked.pem"]


def test_a_first_installation_cut_short_is_finished_too(here: Path) -> None:
    whole = identity.load(here)
    (here / "key.pem").rename(here / "key.new.pem")
    (here / "cert.pem").rename(here / "cert.new.pem")
    assert identity.exists(here)
    assert identity.load(here) == whole


def test_a_certificate_of_no_key_here_is_said(here: Path, authority: Authority, now: float) -> None:
    _, csr = signing_request.new_key_and_csr()
    (here / "cert.new.pem").write_bytes(authority.sign_csr(csr, URI, now).pem)
    with pytest.raises(RpcmeshError, match="belongs to no key here"):
        identity.load(here)


def test_a_key_restored_without_its_certificate_is_said(here: Path, install: Callable[..., Identity]) -> None:
    install("spiffe://m/node/other", "elsewhere")
    shutil.copy(here.parent / "elsewhere" / "key.pem", here / "key.pem")
    with pytest.raises(RpcmeshError, match="is not the key of"):
        identity.load(here)


def test_only_newer_revocation_lists_are_put_in_force(here: Path, authority: Authority, foreign: Authority) -> None:
    assert identity.install_revocations(here, authority.sign_revocations(revocations(3, "ab"))).serials == {"ab"}
    for number in (1, 2, 3):
        with pytest.raises(RevocationsRefusedError) as caught:
            identity.install_revocations(here, authority.sign_revocations(revocations(number)))
        assert caught.value.reason is Reason.NOT_NEWER
    with pytest.raises(RevocationsRefusedError):
        identity.install_revocations(here, foreign.sign_revocations(revocations(9)))
    assert identity.load(here).revocations == revocations(3, "ab")
