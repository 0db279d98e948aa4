"""Reading certificates and keys, broken ones above all."""

from __future__ import annotations

import base64

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from rpcmesh.errors import PeerError, RpcmeshError
from rpcmesh.pki import certificate, signing_request
from rpcmesh.pki.authority import Authority


def pem_of(der: bytes) -> bytes:
    return b"-----BEGIN CERTIFICATE-----\n" + base64.encodebytes(der) + b"-----END CERTIFICATE-----\n"


def test_no_flipped_bit_makes_another_certificate_with_our_pin(authority: Authority) -> None:
    # What a liar in the middle may send. A bit that says how the signature is padded may pass; no signed one does.
    ca = certificate.parse(authority.ca_pem, "ca")
    der = ca.public_bytes(Encoding.DER)
    for place in range(len(der)):
        flipped = bytearray(der)
        flipped[place] ^= 0x01
        try:
            read = certificate.parse(pem_of(bytes(flipped)), "it")
        except PeerError:
            continue
        if certificate.spki_pin(read) == authority.spki_pin and certificate.is_issued_by(read, read):
            assert read.tbs_certificate_bytes == ca.tbs_certificate_bytes


@pytest.mark.parametrize("pem", [b"", b"hello", b"\x00\xff", pem_of(b""), pem_of(b"\x30\x00")])
def test_bytes_that_are_no_certificate_are_refused(pem: bytes) -> None:
    with pytest.raises(PeerError, match="the thing is not a PEM certificate"):
        certificate.parse(pem, "the thing")


def test_a_mesh_of_the_same_name_issued_nothing_here(authority: Authority, foreign: Authority, now: float) -> None:
    _, csr = signing_request.new_key_and_csr()
    leaf = certificate.parse(authority.sign_csr(csr, "spiffe://m/node/n", now).pem, "leaf")
    ours, theirs = (certificate.parse(each.ca_pem, "ca") for each in (authority, foreign))
    assert ours.subject == theirs.subject
    assert certificate.is_issued_by(leaf, ours)
    assert not certificate.is_issued_by(leaf, theirs)


def _encoded(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey, password: bytes | None = None) -> bytes:
    lock = serialization.BestAvailableEncryption(password) if password else NoEncryption()
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, lock)


@pytest.mark.parametrize(
    ("pem", "message"),
    [
        (b"", "not an unencrypted PEM private key"),
        (_encoded(signing_request.new_key(), b"password"), "not an unencrypted PEM private key"),
        (_encoded(ec.generate_private_key(ec.SECP384R1())), "not a P-256 key"),
        (_encoded(rsa.generate_private_key(65537, 2048)), "not a P-256 key"),
    ],
    ids=["empty", "encrypted", "p384", "rsa"],
)
def test_other_keys_are_refused(pem: bytes, message: str) -> None:
    with pytest.raises(RpcmeshError, match=message):
        certificate.parse_key(pem, "the key")


def test_keys_are_pkcs8_and_come_back() -> None:
    pem, csr = signing_request.new_key_and_csr()
    assert pem.startswith(b"-----BEGIN PRIVATE KEY-----\n")
    key = certificate.parse_key(pem, "the key")
    assert certificate.spki(key.public_key()) == certificate.spki(x509.load_der_x509_csr(csr).public_key())
