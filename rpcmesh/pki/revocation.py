"""Which leaves no longer count, as a signed list that only grows newer. Decided here; stored and sent elsewhere."""

from __future__ import annotations

import enum

import msgspec
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec

from rpcmesh.errors import PeerError
from rpcmesh.pki.certificate import serial_hex

# Tunnels whose clock is behind must not take a list that was signed a moment ago for one from the future.
BACKDATE_S = 300.0


class Revoked(msgspec.Struct, frozen=True):
    """One entry: a leaf's serial in lower-case hex and when it was revoked, in Unix seconds."""

    serial: str
    at: float


class Revocations(msgspec.Struct, frozen=True):
    """The whole list. ``number`` grows by at least one with every change, ``updated_at`` by at least one second."""

    number: int
    updated_at: float
    revoked: tuple[Revoked, ...] = ()

    @property
    def serials(self) -> frozenset[str]:
        return frozenset(entry.serial for entry in self.revoked)


class Reason(enum.StrEnum):
    """Why a list was refused."""

    MALFORMED = "malformed"
    FOREIGN = "foreign"  # not signed by this mesh's authority
    UNNUMBERED = "unnumbered"
    NOT_NEWER = "not_newer"


class RevocationsRefusedError(PeerError):
    """A revocation list that must not replace the one in force. ``reason`` says why."""

    def __init__(self, reason: Reason, message: str, *, number: int | None = None, in_force: int | None = None) -> None:
        super().__init__(message)
        self.reason = reason
        self.number = number
        self.in_force = in_force


def next_update(previous: float | None, now: float) -> float:
    """The ``updated_at`` of the next list, in whole Unix seconds: strictly after ``previous``, a little before now.

    OpenSSL ignores a list whose date equals that of one it already holds, so a burst of revocations within one second
    must still get different dates. Dating back leaves room for 300 of them before one would lie in the future.
    """
    wanted = float(int(now - BACKDATE_S))
    return wanted if previous is None else max(wanted, previous + 1.0)


def verify(crl_pem: bytes, ca: x509.Certificate, newer_than: int | None) -> Revocations:
    """Read a list signed by ``ca`` whose number is greater than ``newer_than`` (None: any number).

    Raises :class:`RevocationsRefusedError`.
    """
    try:
        crl = x509.load_pem_x509_crl(crl_pem)
        signed = _is_signed_by(crl, ca)
        number = _number(crl) if signed else None
    except (ValueError, x509.InvalidVersion, UnsupportedAlgorithm) as error:
        raise RevocationsRefusedError(Reason.MALFORMED, "the revocation list is not a PEM X.509 CRL") from error
    if not signed:
        raise RevocationsRefusedError(Reason.FOREIGN, "the revocation list is not signed by this mesh's authority")
    if number is None:
        raise RevocationsRefusedError(Reason.UNNUMBERED, "the revocation list has no number")
    if newer_than is not None and number <= newer_than:
        raise RevocationsRefusedError(
            Reason.NOT_NEWER,
            f"revocation list {number} is not newer than list {newer_than}, which is in force",
            number=number,
            in_force=newer_than,
        )
    entries = (Revoked(serial_hex(entry.serial_number), entry.revocation_date_utc.timestamp()) for entry in crl)
    return Revocations(number=number, updated_at=crl.last_update_utc.timestamp(), revoked=tuple(entries))


def _is_signed_by(crl: x509.CertificateRevocationList, ca: x509.Certificate) -> bool:
    key = ca.public_key()
    return isinstance(key, ec.EllipticCurvePublicKey) and crl.issuer == ca.subject and crl.is_signature_valid(key)


def _number(crl: x509.CertificateRevocationList) -> int | None:
    try:
        return crl.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number
    except x509.ExtensionNotFound:
        return None
