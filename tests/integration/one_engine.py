"""A gateway before one engine on this machine, with the openai package as its client. No test lives here."""

from __future__ import annotations

import datetime
import ipaddress
import ssl
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import openai
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from openai.types.chat import ChatCompletionUserMessageParam

from rpcmesh.engine.client import Engine
from rpcmesh.engine.messages import Delta, Embedded, EmbedRequest, GenerateRequest, LoadedModel, LoadSpec
from rpcmesh.gateway.app import make_app
from rpcmesh.gateway.keys import ApiKey, mint
from rpcmesh.gateway.server import serving
from rpcmesh.gateway.tls import server_tls

MODEL = "smollm2"
# In these words the model is sure enough of its answer for the test of an exact text.
QUESTION: list[ChatCompletionUserMessageParam] = [
    {"role": "user", "content": "What is the capital of France? Answer in one sentence."}
]
STORY: list[ChatCompletionUserMessageParam] = [{"role": "user", "content": "Tell me a story."}]
N_CTX = 4096
# An answer that fills the context takes many times this long.
SOON_S = 15


@dataclass
class OneEngine:
    """A backend that is one engine and nothing else."""

    engine: Engine
    model: LoadedModel

    def models(self) -> tuple[LoadedModel, ...]:
        return (self.model,)

    def not_ready_reason(self) -> str | None:
        return None

    def slots(self) -> int:
        return 1

    def awaited(self) -> tuple[str, ...]:
        return ()

    def generate(self, model: str, request: GenerateRequest) -> AsyncIterator[Delta]:
        assert model == self.model.name
        return self.engine.generate(request)

    async def embed(self, model: str, request: EmbedRequest) -> tuple[Embedded, ...]:
        assert model == self.model.name
        return await self.engine.embed(request)


@dataclass
class OneKey:
    key: ApiKey

    def find_key(self, key_id: str) -> ApiKey | None:
        return self.key if key_id == self.key.id else None


@dataclass
class Gateway:
    port: int
    engine: Engine
    client: openai.AsyncOpenAI


def self_signed(folder: Path) -> tuple[Path, Path]:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "gateway")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(minutes=5))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    cert_path, key_path = folder / "cert.pem", folder / "key.pem"
    cert_path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    key_path.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return cert_path, key_path


@asynccontextmanager
async def running(lib_dir: Path, model: Path, folder: Path) -> AsyncIterator[Gateway]:
    async with AsyncExitStack() as stack:
        engine = await stack.enter_async_context(await Engine.start(lib_dir=lib_dir, on_log=lambda _line: None))
        # One sequence: a second request is served only when the first is out of the engine.
        spec = LoadSpec(model_name=MODEL, model_path=str(model), n_ctx=N_CTX, n_seq_max=1, n_threads=1)
        loaded = await engine.load(spec)
        secret, key = mint("test", now=0.0)
        cert_path, key_path = self_signed(folder)
        app = make_app(OneEngine(engine, loaded), OneKey(key))
        port = await stack.enter_async_context(serving(app, server_tls(cert_path, key_path), "127.0.0.1", 0))
        trust = ssl.create_default_context(cafile=str(cert_path))
        client = openai.AsyncOpenAI(
            api_key=secret,
            base_url=f"https://127.0.0.1:{port}/v1",
            max_retries=0,
            http_client=openai.DefaultAsyncHttpxClient(verify=trust, trust_env=False),
        )
        yield Gateway(port, engine, await stack.enter_async_context(client))
