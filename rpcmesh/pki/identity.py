"""This process's own key and certificate on disk, and how a new pair takes the old one's place.

Two files cannot be exchanged in one step, so a swap is written down before it begins:

1. ``key.new.pem`` holds the pending key while its certificate is being asked for;
2. the certificate that arrived is written to ``cert.new.pem``;
3. ``key.new.pem`` is renamed to ``key.pem``, then ``cert.new.pem`` to ``cert.pem``.

Whoever comes after a crash sees from the files how far it got, and finishes: every function here does that first. A
tunnel is sent SIGHUP after step 3, so it reads a matching pair; should it read in the middle of one, it refuses the
mismatched pair and keeps the one it has. All of it happens under a lock on the directory.
"""

from __future__ import annotations

from pathlib import Path

import msgspec
from cryptography import x509

from rpcmesh.errors import PeerError, RpcmeshError
from rpcmesh.paths import private_dir
from rpcmesh.pki import certificate, files, names, revocation, signing_request
from rpcmesh.pki.names import Principal
from rpcmesh.pki.revocation import Revocations

KEY, CERT, CA, REVOKED = "key.pem", "cert.pem", "ca.pem", "revoked.pem"
NEW_KEY, NEW_CERT = "key.new.pem", "cert.new.pem"


class Identity(msgspec.Struct, frozen=True):
    """What is on disk, checked: key and leaf are a pair, and both leaf and list are signed by ``ca.pem``.

    Dates are Unix seconds and have not been compared with any clock.
    """

    uri: str
    serial: str
    not_before: float
    not_after: float
    revocations: Revocations

    @property
    def principal(self) -> Principal:
        return names.parse_uri(self.uri)


def exists(directory: Path) -> bool:
    """Whether an identity is here, a half-installed one among them."""
    return any((directory / name).exists() for name in (KEY, CERT, NEW_CERT))


def install(directory: Path, key_pem: bytes, cert_pem: bytes, ca_pem: bytes, crl_pem: bytes) -> Identity:
    """The first identity of a home. Everything is checked before anything is written.

    Raises :class:`RpcmeshError` if there already is one, :class:`PeerError` if the parts do not belong together.
    """
    key = certificate.parse_key(key_pem, "the new key")
    ca = certificate.parse(ca_pem, "the mesh's authority")
    leaf = certificate.parse(cert_pem, "the new certificate")
    _require_ours(leaf, ca)
    _require_pair(key, leaf)
    revocation.verify(crl_pem, ca, newer_than=None)
    with files.locked(private_dir(directory)):
        if exists(directory):
            raise RpcmeshError(
                f"{str(directory)!r} already holds an identity", hint=f"move it away: mv {directory} {directory}.old"
            )
        files.write_private(directory / CA, ca_pem)
        files.write_private(directory / REVOKED, crl_pem)
        files.write_private(directory / NEW_KEY, key_pem)
        files.write_private(directory / NEW_CERT, cert_pem)
        _finish_swap(directory)
        return _read(directory)


def load(directory: Path) -> Identity:
    """Read and check the identity, finishing an interrupted swap first. Raises :class:`RpcmeshError`."""
    if not exists(directory):
        raise RpcmeshError(
            f"there is no identity in {str(directory)!r}", hint="on a node: rpcmesh join STRING; else: rpcmesh init"
        )
    try:
        with files.locked(directory):
            _finish_swap(directory)
            return _read(directory)
    except PeerError as error:  # no peer is involved: these are files of ours
        raise RpcmeshError(
            f"the identity in {str(directory)!r} is damaged: {error.message}", hint="restore it from a backup"
        ) from error


def begin_renewal(directory: Path) -> bytes:
    """A signing request (DER) for the pending key. Asking again before the answer came gives the same key's."""
    with files.locked(directory):
        _finish_swap(directory)
        pending = directory / NEW_KEY
        if not pending.exists():
            files.write_private(pending, certificate.key_pem(signing_request.new_key()))
        return signing_request.csr_for(_key(pending))


def finish_renewal(directory: Path, cert_pem: bytes) -> Identity:
    """Put the answer to :func:`begin_renewal` in force. The caller then reloads its tunnel.

    Raises :class:`PeerError` if the certificate is not for the pending key, of another authority or another URI.
    """
    leaf = certificate.parse(cert_pem, "the renewed certificate")
    with files.locked(directory):
        _finish_swap(directory)
        if not (directory / NEW_KEY).exists():
            raise PeerError("a renewed certificate came, but none was asked for")
        _require_ours(leaf, _certificate(directory / CA))
        _require_pair(_key(directory / NEW_KEY), leaf)
        current, renewed = certificate.describe(_certificate(directory / CERT)), certificate.describe(leaf)
        if renewed.uri != current.uri:
            raise PeerError(f"the renewed certificate is for {renewed.uri!r}, not for {current.uri!r}")
        files.write_private(directory / NEW_CERT, cert_pem)
        _finish_swap(directory)
        return _read(directory)


def install_revocations(directory: Path, crl_pem: bytes) -> Revocations:
    """Put a newer revocation list in force. The caller then reloads its tunnel.

    Raises :class:`~rpcmesh.pki.revocation.RevocationsRefusedError`, also for the very list that is in force.
    """
    with files.locked(directory):
        ca = _certificate(directory / CA)
        current = revocation.verify(files.read(directory / REVOKED), ca, newer_than=None)
        newer = revocation.verify(crl_pem, ca, newer_than=current.number)
        files.write_private(directory / REVOKED, crl_pem)
        return newer


def _finish_swap(directory: Path) -> None:
    new_cert, new_key = directory / NEW_CERT, directory / NEW_KEY
    if not new_cert.exists():
        return
    leaf = _certificate(new_cert)
    if new_key.exists() and certificate.is_pair(_key(new_key), leaf):
        files.rename(new_key, directory / KEY)
    elif not certificate.is_pair(_key(directory / KEY), leaf):
        raise RpcmeshError(f"{str(new_cert)!r} belongs to no key here", hint=f"remove it: rm {new_cert}")
    files.rename(new_cert, directory / CERT)


def _read(directory: Path) -> Identity:
    leaf, ca = _certificate(directory / CERT), _certificate(directory / CA)
    if not certificate.is_pair(_key(directory / KEY), leaf):
        raise RpcmeshError(
            f"{str(directory / KEY)!r} is not the key of {str(directory / CERT)!r}",
            hint=f"restore both from the same backup, or join anew: mv {directory} {directory}.old",
        )
    _require_ours(leaf, ca)
    found = certificate.describe(leaf)
    return Identity(
        uri=found.uri or "",
        serial=found.serial,
        not_before=found.not_before,
        not_after=found.not_after,
        revocations=revocation.verify(files.read(directory / REVOKED), ca, newer_than=None),
    )


def _require_ours(leaf: x509.Certificate, ca: x509.Certificate) -> None:
    if not certificate.is_issued_by(leaf, ca):
        raise PeerError("the certificate is not signed by this mesh's authority")
    names.parse_uri(certificate.describe(leaf).uri or "")


def _require_pair(key: certificate.PrivateKey, leaf: x509.Certificate) -> None:
    if not certificate.is_pair(key, leaf):
        raise PeerError("the certificate is not for the key that was made here")


def _key(path: Path) -> certificate.PrivateKey:
    return certificate.parse_key(files.read_private(path), repr(str(path)))


def _certificate(path: Path) -> x509.Certificate:
    return certificate.parse(files.read(path), repr(str(path)))
