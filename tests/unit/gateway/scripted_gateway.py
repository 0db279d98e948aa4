"""What the gateway's tests stand on: a backend that plays a script, keys in a dict, a certificate. No fixtures here."""

from __future__ import annotations

import asyncio
import datetime
import ipaddress
import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from rpcmesh.engine.messages import Delta, Embedded, EmbedRequest, GenerateRequest, LoadedModel, Usage
from rpcmesh.gateway.keys import ApiKey, mint
from rpcmesh.gateway.request_queue import RequestQueue

NOW = 1_700_000_000.0
# (0.5, -0.25) as float32, little-endian
VECTOR = bytes.fromhex("0000003f000080be")
PARIS = (
    Delta(id="", text="Par", token_ids=(1,)),
    Delta(id="", text="is.", token_ids=(2,)),
    Delta(id="", text="", token_ids=(3,), finish_reason="stop", usage=Usage(prompt_tokens=7, completion_tokens=3)),
)


def model_named(name: str) -> LoadedModel:
    return LoadedModel(
        name=name,
        n_layer=2,
        n_ctx=128,
        n_vocab=1000,
        n_params=5,
        size_bytes=10,
        has_chat_template=True,
        placement=(),
        load_s=0.1,
        first_token_ms=1.0,
    )


@dataclass
class ScriptedBackend:
    """A backend that plays ``script``: a delta is sent, an exception raised, an event waited for."""

    script: tuple[Delta | Exception | asyncio.Event, ...] = PARIS
    names: tuple[str, ...] = ("tiny", "other")
    reason: str | None = None
    requests: list[GenerateRequest] = field(default_factory=list)
    embed_requests: list[EmbedRequest] = field(default_factory=list)
    closed: asyncio.Event = field(default_factory=asyncio.Event)
    n_slots: int = 8
    awaits: tuple[str, ...] = ()

    def models(self) -> tuple[LoadedModel, ...]:
        return tuple(model_named(name) for name in self.names)

    def not_ready_reason(self) -> str | None:
        return self.reason

    def slots(self) -> int:
        return self.n_slots

    def awaited(self) -> tuple[str, ...]:
        return self.awaits

    async def generate(self, model: str, request: GenerateRequest) -> AsyncIterator[Delta]:
        self.requests.append(request)
        try:
            for step in self.script:
                match step:
                    case Delta():
                        yield step
                    case asyncio.Event():
                        await step.wait()
                    case error:
                        raise error
        finally:
            self.closed.set()

    async def embed(self, model: str, request: EmbedRequest) -> tuple[Embedded, ...]:
        self.embed_requests.append(request)
        for step in self.script:
            match step:
                case asyncio.Event():
                    await step.wait()
                case Exception():
                    raise step
        return tuple(Embedded(request.id, VECTOR, n_tokens=3) for _ in request.inputs)


@dataclass
class Keys:
    """A key store in a dict, with one key of each fate."""

    by_id: dict[str, ApiKey] = field(default_factory=dict)

    def find_key(self, key_id: str) -> ApiKey | None:
        return self.by_id.get(key_id)

    def add(self, **changes: Any) -> str:
        secret, key = mint("test", NOW, **changes)
        self.by_id[key.id] = key
        return secret


@dataclass
class Gateway:
    url: str
    port: int
    session: aiohttp.ClientSession
    trust: ssl.SSLContext
    backend: ScriptedBackend
    queue: RequestQueue
    keys: Keys
    secret: str

    @property
    def auth(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.secret}"}

    def post(self, path: str, **body: Any) -> Any:
        return self.session.post(self.url + path, json=body, headers=self.auth)

    def chat(self, **body: Any) -> Any:
        return self.post(
            "/v1/chat/completions", **{"model": "tiny", "messages": [{"role": "user", "content": "hi"}], **body}
        )


def self_signed(folder: Path, common_name: str = "gateway") -> tuple[Path, Path]:
    """A P-256 certificate for 127.0.0.1 and localhost: the paths of ``cert.pem`` and ``key.pem``."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
    now = datetime.datetime.now(datetime.UTC)
    names: list[x509.GeneralName] = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    cert = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(minutes=5))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    folder.mkdir(parents=True, exist_ok=True)
    cert_path, key_path = folder / "cert.pem", folder / "key.pem"
    cert_path.write_bytes(cert.public_bytes(serialization.Encoding.PEM))
    key_path.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return cert_path, key_path
