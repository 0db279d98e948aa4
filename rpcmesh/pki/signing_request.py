"""Certificate signing requests: made by a key's owner, and read for one thing only, the public key."""

from __future__ import annotations

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from rpcmesh.errors import PeerError
from rpcmesh.pki.certificate import key_pem


class BadRequestError(PeerError):
    """A signing request that no certificate may be made from."""


def new_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def new_key_and_csr() -> tuple[bytes, bytes]:
    """A new P-256 key as PKCS8 PEM, and a signing request (DER) that proves possession of it."""
    key = new_key()
    return key_pem(key), csr_for(key)


def csr_for(key: ec.EllipticCurvePrivateKey) -> bytes:
    """DER. The subject is empty: who the certificate will speak for is the authority's decision alone."""
    request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, hashes.SHA256())
    return request.public_bytes(Encoding.DER)


def checked_public_key(csr_der: bytes) -> ec.EllipticCurvePublicKey:
    """The P-256 key that the request's sender holds. Subject and extensions are not even looked at.

    Raises :class:`BadRequestError` for another kind of key or a signature that the key did not make.
    """
    try:
        request = x509.load_der_x509_csr(csr_der)
        key = request.public_key()
        if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
            raise BadRequestError("the signing request's key is not a P-256 key")
        if not request.is_signature_valid:
            raise BadRequestError("the signing request is not signed by its own key")
    except (ValueError, x509.InvalidVersion, UnsupportedAlgorithm) as error:
        raise BadRequestError("the signing request is not a DER PKCS#10 request") from error
    return key
