"""One streamed chat completion over HTTPS, as any OpenAI client would ask it."""

from __future__ import annotations

import ssl
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import aiohttp
import msgspec

from rpcmesh.errors import RpcmeshError


class Endpoint(msgspec.Struct, frozen=True):
    """Where to ask, and with what. ``api_key`` is a secret. Without ``ca_file`` the system's authorities count."""

    url: str
    api_key: str
    ca_file: Path | None
    model: str

    def __repr__(self) -> str:
        return f"Endpoint(url={self.url!r}, model={self.model!r}, api_key=…)"


class Answer(msgspec.Struct, frozen=True):
    """``tokens_per_s`` counts from the first token to the last, so that it is decoding speed alone.

    ``token_ids`` is empty unless they were asked for.
    """

    text: str
    prompt_tokens: int
    completion_tokens: int
    time_to_first_token_s: float
    tokens_per_s: float
    token_ids: tuple[int, ...] = ()


class _Message(msgspec.Struct):
    content: str | None = None


class _Choice(msgspec.Struct):
    delta: _Message = msgspec.field(default_factory=_Message)
    token_ids: list[int] = []


class _Usage(msgspec.Struct):
    prompt_tokens: int
    completion_tokens: int


class _Error(msgspec.Struct):
    message: str


class _Chunk(msgspec.Struct):
    choices: list[_Choice] = []
    usage: _Usage | None = None
    error: _Error | None = None


class Turn(msgspec.Struct, frozen=True):
    """One message of a conversation."""

    role: Literal["system", "user", "assistant"]
    content: str


async def stream(
    endpoint: Endpoint,
    turns: list[Turn],
    *,
    max_tokens: int,
    temperature: float,
    on_text: Callable[[str], None],
    with_tokens: bool = False,
) -> Answer:
    """Ask and hand each piece of text to ``on_text`` as it comes. Raises :class:`RpcmeshError` for every refusal."""
    body = {
        "model": endpoint.model,
        "messages": turns,
        "max_tokens": max_tokens,
        "temperature": temperature,
        "stream": True,
        "stream_options": {"include_usage": True},
        "return_token_ids": with_tokens,
    }
    headers = {"Authorization": f"Bearer {endpoint.api_key}", "Content-Type": "application/json"}
    trust = ssl.create_default_context(cafile=endpoint.ca_file)
    pieces: list[str] = []
    token_ids: list[int] = []
    usage = _Usage(0, 0)
    asked = time.perf_counter()
    first = last = asked
    try:
        async with (
            aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=trust)) as session,
            session.post(
                f"{endpoint.url}/chat/completions", data=msgspec.json.encode(body), headers=headers
            ) as response,
        ):
            if response.status != 200:
                raise _refused(response.status, await response.read())
            async for raw in response.content:
                payload = raw.strip().removeprefix(b"data:").strip()
                if not raw.startswith(b"data:") or payload == b"[DONE]":
                    continue
                chunk = msgspec.json.decode(payload, type=_Chunk)
                if chunk.error:
                    raise RpcmeshError(f"the answer broke off: {chunk.error.message}", hint="rpcmesh status")
                usage = chunk.usage or usage
                token_ids += [token for choice in chunk.choices for token in choice.token_ids]
                for text in (choice.delta.content for choice in chunk.choices if choice.delta.content):
                    last = time.perf_counter()
                    first = last if not pieces else first
                    pieces.append(text)
                    on_text(text)
    except (aiohttp.ClientError, ssl.SSLError) as error:
        raise RpcmeshError(f"cannot reach {endpoint.url}: {error}", hint="rpcmesh status") from error
    steps = usage.completion_tokens - 1
    return Answer(
        text="".join(pieces),
        prompt_tokens=usage.prompt_tokens,
        completion_tokens=usage.completion_tokens,
        time_to_first_token_s=first - asked,
        tokens_per_s=steps / (last - first) if last > first else 0.0,
        token_ids=tuple(token_ids),
    )


def _refused(status: int, body: bytes) -> RpcmeshError:
    try:
        reason = msgspec.json.decode(body, type=_Chunk).error
    except msgspec.DecodeError:
        reason = None
    return RpcmeshError(
        f"the endpoint answered {status}: {reason.message if reason else 'no reason given'}", hint="rpcmesh status"
    )
