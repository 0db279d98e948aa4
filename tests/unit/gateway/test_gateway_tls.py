"""The gateway's TLS: what it accepts, and certificates changed under a running server."""

from __future__ import annotations

import asyncio
import shutil
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import web
from cryptography import x509
from scripted_gateway import self_signed

from rpcmesh.errors import RpcmeshError
from rpcmesh.gateway.server import serving
from rpcmesh.gateway.tls import reload_tls, server_tls


def trusting_all(**limits: ssl.TLSVersion) -> ssl.SSLContext:
    """A client that looks only at the protocol."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    for name, value in limits.items():
        setattr(context, name, value)
    return context


@asynccontextmanager
async def connected(
    port: int, tls: ssl.SSLContext | None
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=tls)
    try:
        yield reader, writer
    finally:
        writer.close()
        try:
            await writer.wait_closed()
        except OSError:
            assert tls is None  # the server hung up on plaintext, which is what that test is about


async def served_name(port: int) -> str:
    async with connected(port, trusting_all()) as (_, writer):
        der = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    return x509.load_der_x509_certificate(der).subject.rdns[0].rfc4514_string()


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_tls_1_2_and_1_3_are_spoken_with_forward_secrecy(
    certificate: tuple[Path, Path], version: ssl.TLSVersion
) -> None:
    client = trusting_all(minimum_version=version, maximum_version=version)
    async with (
        serving(web.Application(), server_tls(*certificate), "127.0.0.1", 0) as port,
        connected(port, client) as (_, writer),
    ):
        suite = writer.get_extra_info("cipher")[0]
        assert suite.startswith(("ECDHE-", "TLS_AES_", "TLS_CHACHA20_"))
        assert writer.get_extra_info("ssl_object").selected_alpn_protocol() is None


async def test_suites_without_authenticated_encryption_are_refused(certificate: tuple[Path, Path]) -> None:
    client = trusting_all(maximum_version=ssl.TLSVersion.TLSv1_2)
    client.set_ciphers("ECDHE-ECDSA-AES128-SHA256")
    async with serving(web.Application(), server_tls(*certificate), "127.0.0.1", 0) as port:
        with pytest.raises((ssl.SSLError, ConnectionResetError)):
            await asyncio.open_connection("127.0.0.1", port, ssl=client)


def test_older_versions_are_off(certificate: tuple[Path, Path]) -> None:
    assert server_tls(*certificate).minimum_version == ssl.TLSVersion.TLSv1_2


async def test_plaintext_gets_not_one_byte(certificate: tuple[Path, Path]) -> None:
    async with (
        serving(web.Application(), server_tls(*certificate), "127.0.0.1", 0) as port,
        connected(port, None) as (reader, writer),
    ):
        writer.write(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        assert b"HTTP" not in await _all(reader)


async def _all(reader: asyncio.StreamReader) -> bytes:
    try:
        return await asyncio.wait_for(reader.read(), timeout=5)
    except ConnectionResetError:
        return b""


async def test_new_connections_see_new_files(tmp_path: Path) -> None:
    cert, key = self_signed(tmp_path / "live", "old")
    new = self_signed(tmp_path / "new", "new")
    tls = server_tls(cert, key)
    async with serving(web.Application(), tls, "127.0.0.1", 0) as port:
        assert await served_name(port) == "CN=old"
        shutil.copy(new[0], cert)
        shutil.copy(new[1], key)
        reload_tls(tls, cert, key)
        assert await served_name(port) == "CN=new"


async def test_bad_new_files_leave_the_old_ones_in_force(tmp_path: Path) -> None:
    cert, key = self_signed(tmp_path / "live", "old")
    other_cert, _ = self_signed(tmp_path / "other", "other")
    tls = server_tls(cert, key)
    async with serving(web.Application(), tls, "127.0.0.1", 0) as port:
        with pytest.raises(RpcmeshError, match="cannot use"):
            reload_tls(tls, other_cert, key)
        assert await served_name(port) == "CN=old"


def test_a_missing_file_is_named(certificate: tuple[Path, Path], tmp_path: Path) -> None:
    missing = tmp_path / "key.pem"
    with pytest.raises(RpcmeshError, match="there is no file") as caught:
        server_tls(certificate[0], missing)
    assert str(missing) in caught.value.message
    assert caught.value.hint == "rpcmesh init"


def test_a_file_that_is_no_certificate_is_named(certificate: tuple[Path, Path], tmp_path: Path) -> None:
    garbage = tmp_path / "cert.pem"
    garbage.write_text("not a certificate")
    with pytest.raises(RpcmeshError, match="cannot use") as caught:
        server_tls(garbage, certificate[1])
    assert str(garbage) in caught.value.message
