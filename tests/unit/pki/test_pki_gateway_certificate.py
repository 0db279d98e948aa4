"""The HTTPS endpoint's certificate: signed when it must be, and left alone when it need not."""

from __future__ import annotations

from pathlib import Path

import pytest

from rpcmesh.gateway.tls import server_tls
from rpcmesh.pki import gateway_certificate
from rpcmesh.pki.authority import GATEWAY_LIFE, Authority

HOSTS = ("10.0.0.7", "mesh.example", "fd00::7")


@pytest.fixture
def here(tmp_path: Path, authority: Authority, now: float) -> Path:
    assert gateway_certificate.ensure(tmp_path / "gateway", authority, HOSTS, now) is not None
    return tmp_path / "gateway"


def test_the_gateway_can_serve_with_it(here: Path, authority: Authority) -> None:
    server_tls(here / "cert.pem", here / "key.pem")
    assert (here / "cert.pem").read_bytes().endswith(authority.ca_pem)
    assert {path.stat().st_mode & 0o777 for path in here.iterdir()} == {0o600}


def test_a_good_one_is_left_alone(here: Path, authority: Authority, now: float) -> None:
    before = (here / "cert.pem").read_bytes()
    assert gateway_certificate.ensure(here, authority, HOSTS[::-1], now + 86_400) is None
    assert (here / "cert.pem").read_bytes() == before


@pytest.mark.parametrize("change", ["hosts", "time", "authority", "certificate", "key", "missing"])
def test_another_is_signed_when_something_changed(
    here: Path, authority: Authority, foreign: Authority, now: float, change: str
) -> None:
    key_before = (here / "key.pem").read_bytes()
    hosts = ("10.0.0.8",) if change == "hosts" else HOSTS
    at = now + GATEWAY_LIFE.total_seconds() * 0.56 if change == "time" else now
    if change == "certificate":
        (here / "cert.pem").write_bytes(b"x")
    if change in ("key", "missing"):
        (here / ("key.pem" if change == "key" else "cert.pem")).unlink()
    signed = gateway_certificate.ensure(here, foreign if change == "authority" else authority, hosts, at)
    assert signed is not None
    assert (here / "cert.pem").read_bytes().startswith(signed.pem)
    server_tls(here / "cert.pem", here / "key.pem")
    assert ((here / "key.pem").read_bytes() == key_before) is (change != "key")
