"""What the authority signs, looked at with another implementation's eyes: OpenSSL's command line."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from rpcmesh.errors import RpcmeshError
from rpcmesh.pki import signing_request
from rpcmesh.pki.authority import Authority
from rpcmesh.pki.revocation import Revocations, Revoked
from rpcmesh.pki.signing_request import BadRequestError

DAY_S = 86_400
URI = "spiffe://m/node/n"


def openssl(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    program = shutil.which("openssl")
    assert program is not None
    return subprocess.run([program, *map(str, arguments)], capture_output=True, text=True, check=False)


def leaf_for(authority: Authority, now: float, uri: str = URI) -> x509.Certificate:
    _, csr = signing_request.new_key_and_csr()
    return x509.load_pem_x509_certificate(authority.sign_csr(csr, uri, now).pem)


def test_a_leaf_has_one_uri_and_nothing_of_the_requests(authority: Authority, now: float) -> None:
    key = signing_request.new_key()
    greedy = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "coordinator")]))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("gateway.example")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    signed = authority.sign_csr(greedy.public_bytes(Encoding.DER), URI, now)
    leaf = x509.load_pem_x509_certificate(signed.pem)
    extensions = leaf.extensions
    assert leaf.public_key() == key.public_key()
    assert leaf.subject.rfc4514_string() == "CN=node/n"
    assert list(extensions.get_extension_for_class(x509.SubjectAlternativeName).value) == [
        x509.UniformResourceIdentifier(URI)
    ]
    assert extensions.get_extension_for_class(x509.BasicConstraints).value.ca is False
    assert set(extensions.get_extension_for_class(x509.ExtendedKeyUsage).value) == {
        ExtendedKeyUsageOID.CLIENT_AUTH,
        ExtendedKeyUsageOID.SERVER_AUTH,
    }
    usage = extensions.get_extension_for_class(x509.KeyUsage).value
    assert usage.digital_signature
    assert not usage.key_cert_sign
    assert not usage.crl_sign


def test_a_leaf_lives_seven_days_and_is_dated_back_five_minutes(authority: Authority, now: float) -> None:
    _, csr = signing_request.new_key_and_csr()
    signed = authority.sign_csr(csr, URI, now)
    assert (signed.not_before, signed.not_after) == (now - 300, now + 7 * DAY_S)


def test_serials_come_from_the_dice(authority: Authority, now: float) -> None:
    _, csr = signing_request.new_key_and_csr()
    assert authority.sign_csr(csr, URI, now).serial != authority.sign_csr(csr, URI, now).serial
    assert authority.sign_csr(csr, URI, now, rng=lambda n: b"\xff" * n).serial == "7" + "f" * 39
    assert authority.sign_csr(csr, URI, now, rng=bytes).serial == "1"  # zero is not allowed


def _csr_signed_by(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey) -> bytes:
    algorithm = None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256()
    request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, algorithm)
    return request.public_bytes(Encoding.DER)


@pytest.mark.parametrize(
    "csr",
    [
        _csr_signed_by(ec.generate_private_key(ec.SECP384R1())),
        _csr_signed_by(ec.generate_private_key(ec.SECP256K1())),
        _csr_signed_by(rsa.generate_private_key(65537, 2048)),
        _csr_signed_by(ed25519.Ed25519PrivateKey.generate()),
        b"",
        b"\x30\x00",
        b"-----BEGIN CERTIFICATE REQUEST-----\n",
    ],
    ids=["p384", "k256", "rsa", "ed25519", "empty", "hollow", "pem"],
)
def test_other_keys_and_other_bytes_are_refused(authority: Authority, now: float, csr: bytes) -> None:
    with pytest.raises(BadRequestError):
        authority.sign_csr(csr, URI, now)


def test_no_flipped_bit_of_a_request_gets_another_key_certified() -> None:
    _, csr = signing_request.new_key_and_csr()
    genuine = signing_request.checked_public_key(csr)
    for place in range(len(csr)):
        flipped = bytearray(csr)
        flipped[place] ^= 0x01
        try:
            # A bit that says how the signature is padded may pass: it is not signed, and means nothing.
            assert signing_request.checked_public_key(bytes(flipped)) == genuine
        except BadRequestError:
            continue


def test_uris_of_other_meshes_are_never_signed(authority: Authority, now: float) -> None:
    _, csr = signing_request.new_key_and_csr()
    with pytest.raises(ValueError, match="not of mesh"):
        authority.sign_csr(csr, "spiffe://other/node/n", now)
    with pytest.raises(RpcmeshError, match="does not name"):
        authority.sign_csr(csr, "spiffe://m/admin", now)


def test_the_ca_can_sign_leaves_and_lists_only(authority: Authority, now: float) -> None:
    ca = x509.load_pem_x509_certificate(authority.ca_pem)
    basic = ca.extensions.get_extension_for_class(x509.BasicConstraints)
    usage = ca.extensions.get_extension_for_class(x509.KeyUsage).value
    assert (basic.critical, basic.value.ca, basic.value.path_length) == (True, True, 0)
    assert usage.key_cert_sign
    assert usage.crl_sign
    assert not usage.digital_signature
    assert ca.not_valid_after_utc.timestamp() == now + 3650 * DAY_S


def test_an_expired_ca_signs_nothing(authority: Authority, now: float) -> None:
    with pytest.raises(RpcmeshError, match="expired on"):
        leaf_for(authority, now + 3651 * DAY_S)


def test_the_gateways_leaf_names_hosts_and_no_member(authority: Authority, now: float) -> None:
    key = signing_request.new_key().public_key()
    signed = authority.sign_gateway(key, ("10.0.0.7", "fd00::7", "mesh.example", "studio"), now)
    leaf = x509.load_pem_x509_certificate(signed.pem)
    found = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert signed.uri is None
    assert found.get_values_for_type(x509.DNSName) == ["mesh.example", "studio"]
    assert [str(ip) for ip in found.get_values_for_type(x509.IPAddress)] == ["10.0.0.7", "fd00::7"]
    usage = leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usage) == [ExtendedKeyUsageOID.SERVER_AUTH]


@pytest.mark.parametrize("host", ["", "a b", "*.example", "a..b", "-a", "x" * 64, "a\n", "10.0.0.7:8443", "ä.example"])
def test_hosts_that_are_none_are_named(authority: Authority, now: float, host: str) -> None:
    with pytest.raises(RpcmeshError, match="neither an IP address nor a DNS name"):
        authority.sign_gateway(signing_request.new_key().public_key(), (host,), now)


def test_an_authority_is_opened_again_as_it_was(authority: Authority, tmp_path: Path) -> None:
    opened = Authority.open(tmp_path / "authority")
    assert (opened.mesh, opened.ca_pem, opened.spki_pin) == ("m", authority.ca_pem, authority.spki_pin)
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "authority").iterdir()} == {0o600}


def test_an_authority_is_never_made_over_another(authority: Authority, tmp_path: Path, now: float) -> None:
    with pytest.raises(RpcmeshError, match="already holds"):
        Authority.create(tmp_path / "authority", "m", now)
    assert Authority.open(tmp_path / "authority").ca_pem == authority.ca_pem


def test_a_creation_cut_short_can_be_repeated(authority: Authority, tmp_path: Path, now: float) -> None:
    (tmp_path / "authority" / "ca.pem").unlink()  # the key is written first
    again = Authority.create(tmp_path / "authority", "m", now)
    assert Authority.open(tmp_path / "authority").spki_pin == again.spki_pin != authority.spki_pin


@pytest.mark.usefixtures("authority", "foreign")
def test_a_ca_with_anothers_key_is_refused(tmp_path: Path) -> None:
    shutil.copy(tmp_path / "foreign" / "ca-key.pem", tmp_path / "authority" / "ca-key.pem")
    with pytest.raises(RpcmeshError, match="is not the key of"):
        Authority.open(tmp_path / "authority")


@pytest.mark.usefixtures("authority")
def test_a_ca_key_that_others_can_read_is_refused(tmp_path: Path) -> None:
    (tmp_path / "authority" / "ca-key.pem").chmod(0o644)
    with pytest.raises(RpcmeshError, match="0644"):
        Authority.open(tmp_path / "authority")


def test_a_missing_authority_says_what_to_run(tmp_path: Path) -> None:
    with pytest.raises(RpcmeshError) as caught:
        Authority.open(tmp_path)
    assert caught.value.hint == "rpcmesh init"


@pytest.mark.usefixtures("authority")
def test_the_pin_is_what_openssl_computes(authority: Authority, tmp_path: Path) -> None:
    script = "openssl x509 -in ca.pem -noout -pubkey | openssl pkey -pubin -outform der | openssl dgst -sha256 -r"
    printed = subprocess.run(
        ["/bin/sh", "-c", script], cwd=tmp_path / "authority", capture_output=True, text=True, check=True
    )
    assert authority.spki_pin == f"sha256:{printed.stdout.split()[0]}"


class TestOpenSsl:
    """``openssl verify`` at the time of signing, with everything strict."""

    @pytest.fixture
    def files(self, authority: Authority, foreign: Authority, tmp_path: Path, now: float) -> Path:
        good, revoked = leaf_for(authority, now), leaf_for(authority, now)
        gone = Revocations(7, now - 300, (Revoked(f"{revoked.serial_number:x}", now - 1),))
        (tmp_path / "good.pem").write_bytes(good.public_bytes(Encoding.PEM))
        (tmp_path / "revoked.pem").write_bytes(revoked.public_bytes(Encoding.PEM))
        (tmp_path / "foreign.pem").write_bytes(leaf_for(foreign, now).public_bytes(Encoding.PEM))
        gateway = authority.sign_gateway(signing_request.new_key().public_key(), ("10.0.0.7",), now)
        (tmp_path / "gateway.pem").write_bytes(gateway.pem)
        (tmp_path / "ca.pem").write_bytes(authority.ca_pem)
        (tmp_path / "crl.pem").write_bytes(authority.sign_revocations(gone))
        return tmp_path

    def verify(self, files: Path, name: str, now: float, *more: str) -> subprocess.CompletedProcess[str]:
        return openssl(
            "verify", "-x509_strict", "-check_ss_sig", "-attime", str(int(now)), "-crl_check",
            "-CAfile", files / "ca.pem", "-CRLfile", files / "crl.pem", *more, files / name,
        )  # fmt: skip

    @pytest.mark.parametrize("purpose", ["sslclient", "sslserver"])
    def test_a_leaf_is_accepted_on_both_sides(self, files: Path, now: float, purpose: str) -> None:
        result = self.verify(files, "good.pem", now, "-purpose", purpose)
        assert (result.returncode, result.stdout.strip()) == (0, f"{files / 'good.pem'}: OK"), result.stderr

    def test_a_revoked_leaf_is_refused(self, files: Path, now: float) -> None:
        result = self.verify(files, "revoked.pem", now)
        assert result.returncode != 0
        assert "certificate revoked" in result.stderr

    def test_another_meshs_leaf_is_refused(self, files: Path, now: float) -> None:
        assert self.verify(files, "foreign.pem", now).returncode != 0

    def test_a_leaf_is_refused_a_week_later(self, files: Path, now: float) -> None:
        result = self.verify(files, "good.pem", now + 7 * DAY_S + 1)
        assert "certificate has expired" in result.stderr

    def test_the_list_still_stands_when_leaves_of_years_later_are_checked(
        self, files: Path, authority: Authority, now: float
    ) -> None:
        later = now + 3000 * DAY_S
        (files / "later.pem").write_bytes(leaf_for(authority, later).public_bytes(Encoding.PEM))
        assert self.verify(files, "later.pem", later).returncode == 0

    def test_the_gateway_serves_its_host_and_is_no_client(self, files: Path, now: float) -> None:
        assert self.verify(files, "gateway.pem", now, "-purpose", "sslserver", "-verify_ip", "10.0.0.7").returncode == 0
        assert self.verify(files, "gateway.pem", now, "-verify_ip", "10.0.0.8").returncode != 0
        assert self.verify(files, "gateway.pem", now, "-purpose", "sslclient").returncode != 0

    def test_the_list_is_version_2_with_its_number(self, files: Path) -> None:
        printed = openssl("crl", "-in", files / "crl.pem", "-noout", "-text", "-crlnumber").stdout
        assert "Version 2" in printed
        assert re.search(r"crlNumber=(0x)?0?7\n", printed)
        assert "X509v3 Authority Key Identifier" in printed
