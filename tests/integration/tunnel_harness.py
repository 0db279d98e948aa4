"""A small mesh for the native tunnel: an authority, identities right and wrong, tunnels as processes, and their peers.

What is asserted stands in the tests; nothing here does.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import shutil
import signal
import socket
import socketserver
import ssl
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from rpcmesh.pki import certificate, files, names, signing_request
from rpcmesh.pki.authority import Authority
from rpcmesh.pki.revocation import Revocations, Revoked
from rpcmesh.tunnel import command, routes, status
from rpcmesh.tunnel.routes import EgressRoute, IngressRoute

MESH = "m"
COORDINATOR = names.coordinator_uri(MESH)
NODE = names.node_uri(MESH, "alpha")
DAY_S = 86_400.0
# Generous: a busy machine is slow, not wrong.
PATIENCE_S = 15.0


def eventually(condition: Callable[[], Any], what: str | Callable[[], str], within_s: float = PATIENCE_S) -> Any:
    """The first true value of ``condition``. AssertionError naming ``what`` if there is none in time."""
    deadline = time.monotonic() + within_s
    while not (value := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {within_s:g} s: {what if isinstance(what, str) else what()}")
        time.sleep(0.01)
    return value


@dataclass(frozen=True)
class Leaf:
    key_pem: bytes
    cert_pem: bytes
    serial: str


class Tunnel:
    """One rpcmesh-tunnel process and what it tells about itself."""

    def __init__(self, process: subprocess.Popen[bytes], status_path: Path, log_path: Path) -> None:
        self.process = process
        self.status_path = status_path
        self._log_path = log_path

    def status(self) -> status.TunnelStatus:
        return asyncio.run(status.fetch(self.status_path))

    @property
    def port(self) -> int:
        return int(self.status().listen.rpartition(":")[2])

    def log(self, event: str | None = None) -> list[dict[str, Any]]:
        lines = [json.loads(line) for line in self._log_path.read_text().splitlines()]
        return [line for line in lines if event is None or line["event"] == event]

    def reload(self) -> status.TunnelStatus:
        """SIGHUP, and the status once it was taken or refused."""

        def attempts() -> int:
            return len(self.log("reloaded")) + len(self.log("reload_failed"))

        before = attempts()
        self.process.send_signal(signal.SIGHUP)
        eventually(lambda: attempts() > before, "the reload's log line")
        return self.status()

    def wait_refused(self, reason: str, count: int = 1) -> None:
        self._wait_counted(lambda totals: totals.refused, reason, count)

    def wait_failed(self, reason: str, count: int = 1) -> None:
        self._wait_counted(lambda totals: totals.handshake_failures, reason, count)

    def _wait_counted(self, counts: Callable[[status.Totals], dict[str, int]], reason: str, count: int) -> None:
        eventually(
            lambda: counts(self.status().totals).get(reason, 0) >= count,
            lambda: f"{count} {reason} counted; there are {self.status().totals}",
        )

    def wait_closed(self) -> str:
        """Waits for the first session's end. Its reason."""
        reason: str = eventually(lambda: self.log("session_closed"), "a session's end")[0]["reason"]
        return reason


@dataclass
class Mesh:
    """An authority, and a directory for everything: identities, routes, sockets."""

    root: Path
    binary: Path
    authority: Authority
    revocations: Revocations = field(default_factory=lambda: Revocations(1, time.time() - 600))

    def path(self, name: str) -> Path:
        return self.root / name

    def leaf(self, uri: str, ahead_s: float = 0.0) -> Leaf:
        """A leaf as the mesh makes them, signed at a moment ``ahead_s`` from now."""
        key_pem, csr = signing_request.new_key_and_csr()
        signed = self.authority.sign_csr(csr, uri, time.time() + ahead_s)
        return Leaf(key_pem, signed.pem, signed.serial)

    def leaf_with_uris(self, *uris: str, issuer: Leaf | None = None, forged: bool = False) -> Leaf:
        """Of a kind never made: signed by the authority, by ``issuer``, or, ``forged``, by itself in its name."""
        key, now = signing_request.new_key(), datetime.now(UTC)
        if issuer is None:
            issuer = Leaf(files.read(self.root / "authority" / "ca-key.pem"), self.authority.ca_pem, "")
        signer = key if forged else certificate.parse_key(issuer.key_pem, "the test's issuer")
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test")]))
            .issuer_name(x509.load_pem_x509_certificate(issuer.cert_pem).subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(minutes=5))
            .not_valid_after(now + timedelta(days=1))
        )
        if uris:
            san = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(uri) for uri in uris])
            builder = builder.add_extension(san, critical=False)
        made = builder.sign(signer, hashes.SHA256())
        pem = made.public_bytes(Encoding.PEM)
        return Leaf(certificate.key_pem(key), pem, certificate.serial_hex(made.serial_number))

    def identity(self, name: str, leaf: Leaf) -> Path:
        """A directory as the tunnel wants it, made or overwritten."""
        directory = self.path(name)
        directory.mkdir(mode=0o700, exist_ok=True)
        for file, content in {
            "key.pem": leaf.key_pem,
            "cert.pem": leaf.cert_pem,
            "ca.pem": self.authority.ca_pem,
            "revoked.pem": self.authority.sign_revocations(self.revocations),
        }.items():
            files.write_private(directory / file, content)
        return directory

    def revoke(self, serial: str, *identities: Path) -> None:
        """A newer list with ``serial`` on it, for all ``identities``. Nobody is told."""
        entries = (*self.revocations.revoked, Revoked(serial, time.time()))
        self.revocations = Revocations(self.revocations.number + 1, self.revocations.updated_at + 1, entries)
        for directory in identities:
            files.write_private(directory / "revoked.pem", self.authority.sign_revocations(self.revocations))

    @contextlib.contextmanager
    def ingress(
        self, table: Iterable[IngressRoute], identity: Path, *options: str, listen: str = "127.0.0.1:0", **popen: Any
    ) -> Iterator[Tunnel]:
        routes.write_ingress(self.path("ingress.routes"), table)
        arguments = command.ingress(
            self.binary,
            listen=listen,
            identity=identity,
            routes=self.path("ingress.routes"),
            status=self.path("ingress.sock"),
        )
        with running((*arguments, *options), self.path("ingress.sock"), **popen) as tunnel:
            yield tunnel

    @contextlib.contextmanager
    def egress(self, table: Iterable[EgressRoute], identity: Path, *options: str, **popen: Any) -> Iterator[Tunnel]:
        routes.write_egress(self.path("egress.routes"), table)
        arguments = command.egress(
            self.binary, identity=identity, routes=self.path("egress.routes"), status=self.path("egress.sock")
        )
        with running((*arguments, *options), self.path("egress.sock"), **popen) as tunnel:
            yield tunnel


@contextlib.contextmanager
def founded(binary: Path, mesh: str = MESH) -> Iterator[Mesh]:
    """A mesh in a directory whose path is short enough for sockets; gone afterwards."""
    root = Path(tempfile.mkdtemp(prefix="rm-", dir="/tmp"))
    try:
        yield Mesh(root, binary, Authority.create(root / "authority", mesh, time.time()))
    finally:
        shutil.rmtree(root)


@contextlib.contextmanager
def running(arguments: Iterable[str], status_path: Path, **popen: Any) -> Iterator[Tunnel]:
    """The process, once its status socket answers. It must end by itself with 0 when it is asked to."""
    log_path = status_path.with_suffix(".log")
    with log_path.open("wb") as log, subprocess.Popen(list(arguments), stderr=log, **popen) as process:
        try:

            def listening() -> bool:
                assert process.poll() is None, log_path.read_text()
                return '"listening"' in log_path.read_text()

            eventually(listening, "the tunnel listens")
            yield Tunnel(process, status_path, log_path)
            process.terminate()
            code = process.wait(PATIENCE_S)
            assert code == 0, f"the tunnel ended with {code}: {log_path.read_text()}"
        finally:
            process.kill()


class _UnixServer(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    request_queue_size = 64

    def __init__(self, path: Path, handle: Callable[[socket.socket], None]) -> None:
        self._handle = handle
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        super().__init__(str(path), socketserver.BaseRequestHandler)

    def finish_request(self, request: Any, client_address: Any) -> None:
        with self._lock:
            self._open.add(request)
        with contextlib.suppress(OSError):
            self._handle(request)

    def shutdown_request(self, request: Any) -> None:
        with self._lock:
            self._open.discard(request)
            request.close()

    def hang_up(self) -> None:
        with self._lock:
            for connection in self._open:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)


@contextlib.contextmanager
def unix_server(path: Path, handle: Callable[[socket.socket], None]) -> Iterator[None]:
    """Calls ``handle`` with each connection on a thread of its own, and closes it afterwards."""
    server = _UnixServer(path, handle)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        server.hang_up()
        server.server_close()
        thread.join()
        path.unlink()


def echo(connection: socket.socket) -> None:
    while data := connection.recv(1 << 16):
        connection.sendall(data)


def client_tls(identity: Path, alpn: str | None = routes.AGENT_ALPN) -> ssl.SSLContext:
    """A client that shows ``identity`` and trusts its authority. Who the server is by name is the tests' affair."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.load_verify_locations(identity / "ca.pem")
    context.load_cert_chain(identity / "cert.pem", identity / "key.pem")
    if alpn is not None:
        context.set_alpn_protocols([alpn])
    return context


def dial(port: int, context: ssl.SSLContext, **wrap: Any) -> ssl.SSLSocket:
    raw = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S)
    try:
        return context.wrap_socket(raw, **wrap)
    except BaseException:
        raw.close()
        raise


def dial_unix(path: Path) -> socket.socket:
    client = socket.socket(socket.AF_UNIX)
    client.settimeout(PATIENCE_S)
    client.connect(str(path))
    return client


def sample(size: int) -> bytes:
    """The same bytes every time, and no two stretches of them alike."""
    return hashlib.shake_256(b"rpcmesh").digest(size)


def receive(connection: socket.socket, size: int) -> bytes:
    """Exactly ``size`` bytes, or those before the end."""
    received = bytearray()
    while len(received) < size and (data := connection.recv(min(size - len(received), 1 << 18))):
        received += data
    return bytes(received)


def exchange(connection: socket.socket, text: bytes) -> bytes:
    """What an echo makes of ``text``."""
    connection.sendall(text)
    return receive(connection, len(text))


def fill(connection: socket.socket, at_most: int = 1 << 26) -> int:
    """Sends a sample until nothing has been taken for a while. How much of it was."""
    text, sent = memoryview(sample(at_most)), 0
    connection.settimeout(0.5)
    with contextlib.suppress(TimeoutError):
        while sent < at_most:
            sent += connection.send(text[sent : sent + (1 << 16)])
    connection.settimeout(PATIENCE_S)
    return sent
