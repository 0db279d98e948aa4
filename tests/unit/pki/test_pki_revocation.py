"""Lists that may replace the one in force, and lists that may not."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding

from rpcmesh.pki import certificate, revocation, signing_request
from rpcmesh.pki.authority import Authority
from rpcmesh.pki.revocation import Reason, RevocationsRefusedError, Revoked

LIST = revocation.Revocations(5, 1_800_000_000.0, (Revoked("1f", 1_799_999_000.0), Revoked("abc", 1_799_999_001.0)))


def ca_of(authority: Authority) -> x509.Certificate:
    return certificate.parse(authority.ca_pem, "ca")


@pytest.mark.parametrize("newer_than", [None, 4, 0])
def test_a_newer_list_is_read_back_whole(authority: Authority, newer_than: int | None) -> None:
    read = revocation.verify(authority.sign_revocations(LIST), ca_of(authority), newer_than)
    assert read == LIST
    assert read.serials == {"1f", "abc"}


@pytest.mark.parametrize("newer_than", [5, 6])
def test_an_equal_or_older_number_is_refused(authority: Authority, newer_than: int) -> None:
    with pytest.raises(RevocationsRefusedError, match=f"list 5 is not newer than list {newer_than}") as caught:
        revocation.verify(authority.sign_revocations(LIST), ca_of(authority), newer_than)
    assert caught.value.reason is Reason.NOT_NEWER


def test_the_list_of_a_mesh_of_the_same_name_is_refused(authority: Authority, foreign: Authority) -> None:
    with pytest.raises(RevocationsRefusedError) as caught:
        revocation.verify(foreign.sign_revocations(LIST), ca_of(authority), None)
    assert caught.value.reason is Reason.FOREIGN


@pytest.mark.parametrize("text", [b"", b"-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----\n", b"\x00\xff"])
def test_bytes_that_are_no_list_are_refused(authority: Authority, text: bytes) -> None:
    with pytest.raises(RevocationsRefusedError) as caught:
        revocation.verify(text, ca_of(authority), None)
    assert caught.value.reason is Reason.MALFORMED


def test_a_list_cut_anywhere_is_refused(authority: Authority) -> None:
    pem = authority.sign_revocations(LIST).rstrip()
    for length in range(len(pem)):
        with pytest.raises(RevocationsRefusedError):
            revocation.verify(pem[:length], ca_of(authority), None)


def test_a_list_without_a_number_is_refused() -> None:
    key, name, start = signing_request.new_key(), x509.Name([]), datetime(2027, 1, 1, tzinfo=UTC)
    ca = (
        x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key()).serial_number(1)
        .not_valid_before(start).not_valid_after(start + timedelta(days=1)).sign(key, hashes.SHA256())
    )  # fmt: skip
    crl = (
        x509.CertificateRevocationListBuilder().issuer_name(name).last_update(start)
        .next_update(start + timedelta(days=1)).sign(key, hashes.SHA256())
    )  # fmt: skip
    with pytest.raises(RevocationsRefusedError) as caught:
        revocation.verify(crl.public_bytes(Encoding.PEM), ca, None)
    assert caught.value.reason is Reason.UNNUMBERED


@pytest.mark.parametrize(
    ("previous", "now", "expected"),
    [
        (None, 1000.9, 700.0),
        (600.0, 1000.0, 700.0),
        (700.0, 1000.0, 701.0),  # twice in one second
        (700.0, 1000.9, 701.0),
        (900.0, 1000.0, 901.0),  # a burst
        (5000.0, 1000.0, 5001.0),  # the clock was set back
    ],
)
def test_every_list_is_dated_after_the_last(previous: float | None, now: float, expected: float) -> None:
    assert revocation.next_update(previous, now) == expected
