"""The mesh's certificate authority: it signs leaves and revocation lists. Whom to sign for is decided elsewhere."""

from __future__ import annotations

import ipaddress
import re
import secrets
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from rpcmesh.errors import RpcmeshError
from rpcmesh.paths import private_dir
from rpcmesh.pki import certificate, files, names, signing_request
from rpcmesh.pki.certificate import Certificate
from rpcmesh.pki.revocation import Revocations

CA_LIFE = timedelta(days=3650)
LEAF_LIFE = timedelta(days=7)
# Longer than a mesh leaf's: API clients come and go, and nothing but its dates ever takes this one out of use.
GATEWAY_LIFE = timedelta(days=90)
# Machines whose clocks are a little behind must accept what was signed a moment ago.
BACKDATE = timedelta(minutes=5)

Random = Callable[[int], bytes]
_DNS_NAME = re.compile(
    r"(?=.{1,253}\Z)[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?(?:\.[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?)*",
    re.ASCII,
)


class Authority:
    """The CA's key and certificate, in memory. Lives on the coordinator only."""

    def __init__(self, key: ec.EllipticCurvePrivateKey, ca: x509.Certificate) -> None:
        self._key = key
        self._ca = ca
        self.mesh = _mesh_of(ca)
        self.ca_pem = ca.public_bytes(Encoding.PEM)
        self.spki_pin = certificate.spki_pin(ca)

    @classmethod
    def create(cls, directory: Path, mesh: str, now: float, rng: Random = secrets.token_bytes) -> Authority:
        """Make a new CA in ``directory``. Raises :class:`RpcmeshError` if there is one already."""
        names.check_name(mesh, "mesh")
        with files.locked(private_dir(directory)):
            if (directory / "ca.pem").exists():
                raise RpcmeshError(
                    f"{str(directory)!r} already holds a certificate authority",
                    hint="set RPCMESH_HOME to another directory to found another mesh",
                )
            key = signing_request.new_key()
            ca = _self_signed(key, mesh, now, rng)
            # The key first: a key without ca.pem was never used and is overwritten by the next attempt.
            files.write_private(directory / "ca-key.pem", certificate.key_pem(key))
            files.write_private(directory / "ca.pem", ca.public_bytes(Encoding.PEM))
        return cls(key, ca)

    @classmethod
    def open(cls, directory: Path) -> Authority:
        """Load the CA. Raises :class:`RpcmeshError` if it is missing, readable by others, or not a pair."""
        key_path, ca_path = directory / "ca-key.pem", directory / "ca.pem"
        if not ca_path.exists():
            raise RpcmeshError(f"there is no certificate authority in {str(directory)!r}", hint="rpcmesh init")
        ca = certificate.parse(files.read(ca_path), repr(str(ca_path)))
        key = certificate.parse_key(files.read_private(key_path), repr(str(key_path)))
        if not certificate.is_pair(key, ca):
            raise RpcmeshError(
                f"{str(key_path)!r} is not the key of {str(ca_path)!r}", hint="restore both from the same backup"
            )
        return cls(key, ca)

    def sign_csr(self, csr_der: bytes, uri: str, now: float, rng: Random = secrets.token_bytes) -> Certificate:
        """A mesh leaf for ``uri``, 7 days, good as client and server. Only the request's public key is taken from it.

        Raises :class:`~rpcmesh.pki.signing_request.BadRequestError`; ValueError if ``uri`` is not of this mesh.
        """
        principal = names.parse_uri(uri)
        if principal.mesh != self.mesh:
            raise ValueError(f"{uri!r} is not of mesh {self.mesh!r}")
        return self._leaf(
            signing_request.checked_public_key(csr_der),
            common_name="coordinator" if principal.node is None else f"node/{principal.node}",
            alternative_names=[x509.UniformResourceIdentifier(uri)],
            usages=[ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH],
            life=LEAF_LIFE,
            now=now,
            rng=rng,
        )

    def sign_gateway(
        self, key: ec.EllipticCurvePublicKey, hosts: tuple[str, ...], now: float, rng: Random = secrets.token_bytes
    ) -> Certificate:
        """A server leaf for the HTTPS endpoint at ``hosts`` (addresses and DNS names), 90 days.

        It has no URI SAN, so the tunnel never takes its holder for a member; and mesh leaves have no DNS or IP SAN, so
        an HTTPS client never takes a node for the coordinator. Raises :class:`RpcmeshError` naming a bad host.
        """
        return self._leaf(
            key,
            common_name="gateway",
            alternative_names=[_host_name(host) for host in hosts],
            usages=[ExtendedKeyUsageOID.SERVER_AUTH],
            life=GATEWAY_LIFE,
            now=now,
            rng=rng,
        )

    def sign_revocations(self, revocations: Revocations) -> bytes:
        """The list as X.509 CRL v2 PEM. The same ``revocations`` always give the same dates, number and entries."""
        issued = _utc(revocations.updated_at)
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(self._ca.subject)
            .last_update(issued)
            # The leaf's 7 days bound what a stale list can do; a list that expired would stop the whole mesh.
            .next_update(issued + CA_LIFE)
            .add_extension(x509.CRLNumber(revocations.number), critical=False)
            .add_extension(self._authority_key_id(), critical=False)
        )
        for entry in revocations.revoked:
            revoked = x509.RevokedCertificateBuilder().serial_number(int(entry.serial, 16))
            builder = builder.add_revoked_certificate(revoked.revocation_date(_utc(entry.at)).build())
        return builder.sign(self._key, hashes.SHA256()).public_bytes(Encoding.PEM)

    def _leaf(
        self,
        key: ec.EllipticCurvePublicKey,
        *,
        common_name: str,
        alternative_names: list[x509.GeneralName],
        usages: list[x509.ObjectIdentifier],
        life: timedelta,
        now: float,
        rng: Random,
    ) -> Certificate:
        at = _utc(now)
        if at >= self._ca.not_valid_after_utc:
            raise RpcmeshError(
                f"the certificate authority of mesh {self.mesh!r} expired on {self._ca.not_valid_after_utc:%Y-%m-%d}",
                hint="check this machine's clock; if it is right, found the mesh again: rpcmesh init",
            )
        leaf = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)]))
            .issuer_name(self._ca.subject)
            .public_key(key)
            .serial_number(_serial(rng))
            .not_valid_before(at - BACKDATE)
            .not_valid_after(at + life)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage(leaf=True), critical=True)
            .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
            .add_extension(x509.SubjectAlternativeName(alternative_names), critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
            .add_extension(self._authority_key_id(), critical=False)
            .sign(self._key, hashes.SHA256())
        )
        return certificate.describe(leaf)

    def _authority_key_id(self) -> x509.AuthorityKeyIdentifier:
        subject_key = self._ca.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
        return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(subject_key)


def _self_signed(key: ec.EllipticCurvePrivateKey, mesh: str, now: float, rng: Random) -> x509.Certificate:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"rpcmesh CA of {mesh}")])
    at = _utc(now)
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(_serial(rng))
        .not_valid_before(at - BACKDATE)
        .not_valid_after(at + CA_LIFE)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(leaf=False), critical=True)
        # As SPIFFE has it: a signing certificate is named by its trust domain alone.
        .add_extension(
            x509.SubjectAlternativeName([x509.UniformResourceIdentifier(f"spiffe://{mesh}")]), critical=False
        )
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )


def _mesh_of(ca: x509.Certificate) -> str:
    match certificate.uri_names(ca):
        case [uri] if uri.startswith("spiffe://"):
            return names.check_name(uri.removeprefix("spiffe://"), "mesh")
        case uris:
            raise RpcmeshError(f"the certificate authority's URI names {uris!r} do not name one mesh")


def _host_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        if _DNS_NAME.fullmatch(host) is None:
            raise RpcmeshError(
                f"{host!r} is neither an IP address nor a DNS name", hint="correct [coordinator] names and listen"
            ) from None
        return x509.DNSName(host)


def _key_usage(*, leaf: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=leaf,
        key_cert_sign=not leaf,
        crl_sign=not leaf,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _serial(rng: Random) -> int:
    # 159 bits, because DER integers are signed and RFC 5280 allows 20 bytes; never 0, which it forbids.
    return (int.from_bytes(rng(20), "big") >> 1) or 1


def _utc(at: float) -> datetime:
    return datetime.fromtimestamp(int(at), UTC)
