"""Reading certificates and keys into plain values. Nothing is signed here and nothing touches the disk."""

from __future__ import annotations

import hashlib

import msgspec
from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from rpcmesh.errors import PeerError, RpcmeshError

PrivateKey = ec.EllipticCurvePrivateKey
PublicKey = ec.EllipticCurvePublicKey


class Certificate(msgspec.Struct, frozen=True):
    """A leaf. Times are Unix seconds; ``uri`` is None for the gateway's, which names hosts instead."""

    pem: bytes
    serial: str  # lower-case hex, no leading zeros
    uri: str | None
    not_before: float
    not_after: float


def describe(leaf: x509.Certificate) -> Certificate:
    """The plain values of a leaf. Raises :class:`PeerError` if it has more than one URI SAN."""
    uris = uri_names(leaf)
    if len(uris) > 1:
        raise PeerError(f"certificate {serial_hex(leaf.serial_number)} has {len(uris)} URI names, not one")
    return Certificate(
        pem=leaf.public_bytes(Encoding.PEM),
        serial=serial_hex(leaf.serial_number),
        uri=uris[0] if uris else None,
        not_before=leaf.not_valid_before_utc.timestamp(),
        not_after=leaf.not_valid_after_utc.timestamp(),
    )


def uri_names(certificate: x509.Certificate) -> list[str]:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return []
    return names.get_values_for_type(x509.UniformResourceIdentifier)


def parse(pem: bytes, what: str) -> x509.Certificate:
    """The first certificate in ``pem``. ``what`` says in the error whose it is."""
    try:
        certificate = x509.load_pem_x509_certificate(pem)
        certificate.public_key()  # read lazily: a damaged one is to be found here, not at its first use
    except (ValueError, x509.InvalidVersion, UnsupportedAlgorithm) as error:
        raise PeerError(f"{what} is not a PEM certificate") from error
    return certificate


def parse_key(pem: bytes, what: str) -> ec.EllipticCurvePrivateKey:
    """An unencrypted P-256 private key, the only kind that this mesh makes."""
    try:
        key = serialization.load_pem_private_key(pem, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise RpcmeshError(f"{what} is not an unencrypted PEM private key") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
        raise RpcmeshError(f"{what} is not a P-256 key")
    return key


def key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())


def is_pair(key: ec.EllipticCurvePrivateKey, certificate: x509.Certificate) -> bool:
    return spki(key.public_key()) == spki(certificate.public_key())


def is_issued_by(certificate: x509.Certificate, ca: x509.Certificate) -> bool:
    """Whether ``ca`` signed ``certificate``: names match and the signature holds. Dates are not looked at."""
    try:
        certificate.verify_directly_issued_by(ca)
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
        return False
    return True


def spki(key: object) -> bytes:
    """A public key as DER SubjectPublicKeyInfo, whatever its kind."""
    assert hasattr(key, "public_bytes")  # noqa: S101 (cryptography's union of key types is open-ended)
    encoded: bytes = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return encoded


def spki_pin(ca: x509.Certificate) -> str:
    """``sha256:<hex>`` over the key, not the certificate: it stays the same when a CA is issued anew for its key.

    As ``openssl x509 -in ca.pem -noout -pubkey | openssl pkey -pubin -outform der | openssl dgst -sha256`` prints it.
    """
    return f"sha256:{hashlib.sha256(spki(ca.public_key())).hexdigest()}"


def serial_hex(serial: int) -> str:
    return f"{serial:x}"
