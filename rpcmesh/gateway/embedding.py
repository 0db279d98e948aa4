"""``/v1/embeddings``: its body parsed once, its answer built. No I/O, no clock."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
from msgspec import Meta

from rpcmesh.engine.messages import Embedded, EmbedRequest, TextPrompt, TokenPrompt
from rpcmesh.gateway.errors import invalid
from rpcmesh.gateway.fields import Label, TokenId, decode, refuse_unsupported

# OpenAI's own limit.
INPUTS_MAX = 2048

AT_FAULT = {
    "context_length_exceeded": "input",
    "invalid_prompt": "input",
    "model_not_supported": "model",
}

Encoding = Literal["float", "base64"]
Tokens = tuple[TokenId, ...]


class EmbeddingBody(msgspec.Struct, frozen=True, kw_only=True):
    """Null means the default, as OpenAI's clients send it; fields not named here are ignored."""

    model: Label
    input: str | Annotated[tuple[str | TokenId | Tokens, ...], Meta(min_length=1)]
    encoding_format: Encoding | None = None

    dimensions: Any = None


HARMLESS: Mapping[str, tuple[object, ...]] = {"dimensions": (None,)}


class EmbedCall(msgspec.Struct, frozen=True):
    """A body understood."""

    model: str
    request: EmbedRequest
    encoding: Encoding


_decoder = msgspec.json.Decoder(EmbeddingBody)


def parse_embedding(body: bytes, request_id: str) -> EmbedCall:
    """A request body, or :class:`ApiError` 400 that names the parameter at fault."""
    parsed = decode(_decoder, body)
    refuse_unsupported(parsed, HARMLESS)
    return EmbedCall(
        model=parsed.model,
        request=EmbedRequest(request_id, tuple(_inputs(parsed.input))),
        encoding=parsed.encoding_format or "float",
    )


def _inputs(given: str | tuple[str | int | Tokens, ...]) -> Iterator[TextPrompt | TokenPrompt]:
    """One text, one list of tokens, or a list of either."""
    if isinstance(given, str):
        yield TextPrompt(given)
        return
    numbers = tuple(part for part in given if isinstance(part, int))
    if len(numbers) == len(given):
        yield TokenPrompt(numbers)
        return
    if len(given) > INPUTS_MAX:
        raise invalid("input", f"'input' has {len(given)} texts: at most {INPUTS_MAX} are allowed", "invalid_value")
    for place, part in enumerate(given):
        match part:
            case str():
                yield TextPrompt(part)
            case tuple() if part:
                yield TokenPrompt(part)
            case _:
                message = f"'input[{place}]' is {part!r} among other texts: send texts or lists of token ids"
                raise invalid(f"input[{place}]", message, "invalid_value")


class Vector(msgspec.Struct, frozen=True, tag_field="object", tag="embedding"):
    """``embedding`` is a list of numbers, or the same as float32, little-endian, in base64."""

    index: int
    embedding: tuple[float, ...] | str


class EmbeddingUsage(msgspec.Struct, frozen=True):
    prompt_tokens: int
    total_tokens: int


class VectorList(msgspec.Struct, frozen=True, tag_field="object", tag="list"):
    model: str
    data: tuple[Vector, ...]
    usage: EmbeddingUsage


def embedding_reply(call: EmbedCall, embedded: Sequence[Embedded]) -> bytes:
    n_tokens = sum(each.n_tokens for each in embedded)
    vectors = tuple(Vector(index, _encoded(each.vector, call.encoding)) for index, each in enumerate(embedded))
    return msgspec.json.encode(VectorList(call.model, vectors, EmbeddingUsage(n_tokens, n_tokens)))


def _encoded(vector: bytes, encoding: Encoding) -> tuple[float, ...] | str:
    if encoding == "base64":
        return base64.b64encode(vector).decode()
    return tuple(np.frombuffer(vector, "<f4").tolist())
