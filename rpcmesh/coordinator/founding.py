"""A coordinator's home: founding a mesh in it, and opening it again. What both need to admit, sign and revoke."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import msgspec

from rpcmesh import config
from rpcmesh.coordinator.records import Action
from rpcmesh.coordinator.store import Store
from rpcmesh.errors import RpcmeshError
from rpcmesh.paths import Home
from rpcmesh.pki import certificate, gateway_certificate, identity, join_string, names, signing_request, tokens
from rpcmesh.pki.authority import Authority
from rpcmesh.pki.files import write_private
from rpcmesh.pki.revocation import Revocations

ACTOR = "admin"
EVERYWHERE = ("0.0.0.0", "::")


class Founded(msgspec.Struct, frozen=True):
    mesh: str
    home: Path
    ca_file: Path
    pin: str


class OpenMesh:
    """The database and the authority of a founded mesh. Use :func:`open_mesh`."""

    def __init__(self, home: Home, settings: config.Config, store: Store, authority: Authority) -> None:
        self.home = home
        self.settings = settings
        self.store = store
        self.authority = authority
        self.name = authority.mesh

    def create_token(self, node: str | None, *, ttl_s: float, now: float) -> str:
        """A join string, to be shown once."""
        address = self.advertised()
        secret, token = tokens.mint(now, node, ttl_s)
        self.store.add_token(token, ACTOR, now)
        return join_string.encode(
            join_string.JoinString(
                address=address, pin=self.authority.spki_pin, token_id=token.id, secret=secret, node=node
            )
        )

    def advertised(self) -> str:
        """HOST:PORT that others reach the HTTPS endpoint at. Raises :class:`RpcmeshError` when none is configured."""
        host, port = config.parse_address(self.settings.coordinator.listen)
        if host not in EVERYWHERE:
            return self.settings.coordinator.listen
        if not self.settings.coordinator.names:
            raise RpcmeshError(
                f"the endpoint listens on {host!r}, which is no address that another machine can reach",
                hint=f'name this machine in {self.home.config}: [coordinator] names = ["host.lan"]',
            )
        return config.join_address(self.settings.coordinator.names[0], port)

    def gateway_hosts(self) -> tuple[str, ...]:
        """The addresses and names that the HTTPS certificate must be good for."""
        host, _ = config.parse_address(self.settings.coordinator.listen)
        own = [] if host in EVERYWHERE else [host]
        return tuple(dict.fromkeys((*own, *self.settings.coordinator.names, "localhost", "127.0.0.1")))

    def ensure_gateway_certificate(self, now: float) -> bool:
        """Sign the HTTPS certificate when it is absent, due or for other names. Whether it was."""
        signed = gateway_certificate.ensure(self.home.gateway, self.authority, self.gateway_hosts(), now)
        if signed is not None:
            self.store.record_certificate(signed, Action.CERTIFICATE_ISSUED, "coordinator", now)
        return signed is not None

    def revocation_list(self) -> bytes:
        """The list as it stands, signed (PEM)."""
        return self.authority.sign_revocations(self.store.revocations())

    def repair_revocations(self) -> None:
        """Put the database's list in force here, should a crash have come between a revocation and its file."""
        if identity.load(self.home.identity).revocations.number < self.store.mesh().crl_number:
            identity.install_revocations(self.home.identity, self.revocation_list())

    def revoke(self, node: str, now: float) -> Revocations:
        """Put ``node`` out and the new list in force here; sending it to the other nodes is the caller's."""
        revoked = self.store.revoke_member(node, ACTOR, now)
        identity.install_revocations(self.home.identity, self.authority.sign_revocations(revoked))
        return revoked


def found(home: Home, settings: config.Config, now: float) -> Founded:
    """Make ``home`` the coordinator of a new mesh. Raises :class:`RpcmeshError` when it already holds one."""
    mesh = names.check_name(settings.mesh.name, "mesh")
    config.parse_address(settings.coordinator.listen)
    if home.config.exists() or home.authority.exists():
        raise RpcmeshError(f"{str(home.root)!r} already holds a mesh", hint="set RPCMESH_HOME to another directory")
    home.ensure()
    authority = Authority.create(home.authority, mesh, now)
    with Store(home.database) as store:
        store.found_mesh(mesh, ACTOR, now)
        key = signing_request.new_key()
        leaf = authority.sign_csr(signing_request.csr_for(key), names.coordinator_uri(mesh), now)
        store.record_certificate(leaf, Action.CERTIFICATE_ISSUED, ACTOR, now)
        revoked = authority.sign_revocations(store.revocations())
        identity.install(home.identity, certificate.key_pem(key), leaf.pem, authority.ca_pem, revoked)
    # Last, so that a home with a configuration is a whole one.
    write_private(home.config, config.render(settings).encode())
    return Founded(mesh=mesh, home=home.root, ca_file=home.authority / "ca.pem", pin=authority.spki_pin)


@contextlib.contextmanager
def open_mesh(home: Home) -> Iterator[OpenMesh]:
    """Open a founded mesh. Raises :class:`RpcmeshError` when ``home`` holds none."""
    if not home.authority.exists():
        raise RpcmeshError(f"{str(home.root)!r} holds no mesh", hint="rpcmesh init, or set RPCMESH_HOME")
    home.ensure()
    settings = config.load(home.config)
    authority = Authority.open(home.authority)
    with Store(home.database) as store:
        mesh = OpenMesh(home, settings, store, authority)
        mesh.repair_revocations()
        yield mesh
