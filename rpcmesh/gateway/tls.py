"""The TLS of the HTTPS gateway: ordinary API clients, no client certificates. The mesh's own TLS is the tunnel's."""

from __future__ import annotations

import ssl
from pathlib import Path

from rpcmesh.errors import RpcmeshError

# TLS 1.2 suites with forward secrecy and authenticated encryption; those of TLS 1.3 all have both.
CIPHERS_1_2 = "ECDHE+AESGCM:ECDHE+CHACHA20"


def server_tls(cert: Path, key: Path) -> ssl.SSLContext:
    """A server context, TLS 1.2 or newer (API clients lag behind). ``cert`` is a PEM chain, leaf first.

    Raises :class:`RpcmeshError` if a file is missing, not PEM, encrypted, or the two do not belong together.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(CIPHERS_1_2)
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION | ssl.OP_CIPHER_SERVER_PREFERENCE
    # Connections are kept alive, so resumption gains little, and a ticket key in memory would undo forward secrecy.
    context.options |= ssl.OP_NO_TICKET
    context.num_tickets = 0
    context.set_alpn_protocols(["http/1.1"])
    _load(context, cert, key)
    return context


def reload_tls(context: ssl.SSLContext, cert: Path, key: Path) -> None:
    """Serve the files' present content to new connections; established ones keep what they have.

    If the files are bad, ``context`` stays as it was and :class:`RpcmeshError` is raised. The new key must be of the
    old one's type: OpenSSL keeps one certificate per type, so the old one would stay beside a new one of another type.
    """
    _load(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), cert, key)
    _load(context, cert, key)


def _load(context: ssl.SSLContext, cert: Path, key: Path) -> None:
    try:
        # Without a password OpenSSL would ask for one on the terminal, and a service would hang there.
        context.load_cert_chain(cert, key, password="")
    except FileNotFoundError as error:
        missing = next((path for path in (cert, key) if not path.exists()), cert)
        raise RpcmeshError(f"there is no file {str(missing)!r} for the HTTPS gateway", hint="rpcmesh init") from error
    except OSError as error:  # ssl.SSLError is one too
        reason = error.reason if isinstance(error, ssl.SSLError) else error.strerror
        raise RpcmeshError(
            f"cannot use the gateway's certificate {str(cert)!r} with the key {str(key)!r}: {reason}",
            hint=f"compare the two: openssl x509 -noout -pubkey -in {cert}; openssl pkey -pubout -in {key}",
        ) from error
