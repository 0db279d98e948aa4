"""The HTTPS endpoint's key and certificate on disk. Its key stays, so a renewal replaces one file, in one step."""

from __future__ import annotations

from pathlib import Path

from cryptography import x509

from rpcmesh.errors import RpcmeshError
from rpcmesh.paths import private_dir
from rpcmesh.pki import certificate, files, renewal, signing_request
from rpcmesh.pki.authority import Authority
from rpcmesh.pki.certificate import Certificate

KEY, CERT = "key.pem", "cert.pem"


def ensure(directory: Path, authority: Authority, hosts: tuple[str, ...], now: float) -> Certificate | None:
    """Make ``key.pem`` and ``cert.pem`` (leaf, then CA) good for ``hosts``. Returns the leaf if a new one was signed.

    A new one is signed when there is none, when the hosts or the authority changed, and past half of its life. The
    caller records what was signed and has the running server read it again.
    """
    with files.locked(private_dir(directory)):
        key = _key(directory / KEY)
        if _is_good(directory / CERT, key, authority, hosts, now):
            return None
        signed = authority.sign_gateway(key.public_key(), hosts, now)
        files.write_private(directory / CERT, signed.pem + authority.ca_pem)
        return signed


def _key(path: Path) -> certificate.PrivateKey:
    if not path.exists():
        files.write_private(path, certificate.key_pem(signing_request.new_key()))
    return certificate.parse_key(files.read_private(path), repr(str(path)))


def _is_good(path: Path, key: certificate.PrivateKey, authority: Authority, hosts: tuple[str, ...], now: float) -> bool:
    if not path.exists():
        return False
    try:
        leaf = certificate.parse(files.read(path), repr(str(path)))
    except RpcmeshError:
        return False
    found = certificate.describe(leaf)
    return (
        certificate.is_pair(key, leaf)
        and certificate.is_issued_by(leaf, certificate.parse(authority.ca_pem, "the mesh's authority"))
        and _hosts(leaf) == set(hosts)
        and not renewal.is_due(found.not_before, found.not_after, renewal.jitter_of(found.serial), now)
    )


def _hosts(leaf: x509.Certificate) -> set[str]:
    found = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return {*found.get_values_for_type(x509.DNSName), *map(str, found.get_values_for_type(x509.IPAddress))}
