"""``/v1/completions``: its body parsed once, its answers built. No I/O, no clock."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import msgspec
from msgspec import UNSET, Meta, UnsetType

from rpcmesh.engine.messages import GenerateRequest, TextPrompt, TokenPrompt
from rpcmesh.gateway.errors import invalid, unsupported_value
from rpcmesh.gateway.fields import COMMON_HARMLESS, Call, CommonBody, TokenCount, decode, refuse_unsupported, streaming
from rpcmesh.gateway.reply import TokenIds, UsageBody

# OpenAI's documented default for this endpoint; chat has none.
DEFAULT_MAX_TOKENS = 16

TokenId = Annotated[int, Meta(ge=0, le=2**31 - 1)]
Tokens = tuple[TokenId, ...]


class CompletionBody(CommonBody, frozen=True, kw_only=True):
    prompt: str | tuple[str | TokenId | Tokens, ...]
    max_tokens: TokenCount | None = None

    best_of: Any = None
    suffix: Any = None
    echo: Any = None


HARMLESS: Mapping[str, tuple[object, ...]] = {
    **COMMON_HARMLESS,
    "best_of": (None, 1),
    "suffix": (None, ""),
    "echo": (None, False),
}

_decoder = msgspec.json.Decoder(CompletionBody)


def parse_completion(body: bytes, request_id: str) -> Call:
    """A request body, or :class:`ApiError` 400 that names the parameter at fault."""
    parsed = decode(_decoder, body)
    refuse_unsupported(parsed, HARMLESS)
    stream, include_usage = streaming(parsed)
    request = GenerateRequest(
        id=request_id,
        prompt=_prompt(parsed.prompt),
        max_tokens=DEFAULT_MAX_TOKENS if parsed.max_tokens is None else parsed.max_tokens,
        sampling=parsed.sampling(),
        ignore_eos=parsed.ignore_eos is True,
    )
    return Call(
        model=parsed.model,
        request=request,
        stream=stream,
        include_usage=include_usage,
        token_ids=parsed.return_token_ids is True,
        priority=parsed.priority or 0,
        deadline_s=parsed.deadline_s,
    )


def _prompt(prompt: str | tuple[str | int | Tokens, ...]) -> TextPrompt | TokenPrompt:
    """One prompt: a text or a token list, either of them perhaps alone in a list."""
    match prompt:
        case str() as text:
            return TextPrompt(text)
        case (str() as text,):
            return TextPrompt(text)
        case (tuple() as tokens,):
            return _tokens(tokens)
        case several if any(isinstance(part, str | tuple) for part in several) and len(several) > 1:
            raise unsupported_value("prompt", f"{len(several)} prompts in one request are not supported here: send one")
        case tokens:
            return _tokens(tokens)


def _tokens(parts: tuple[str | int | Tokens, ...]) -> TokenPrompt:
    if not parts:
        raise invalid("prompt", "'prompt' is an empty list: send a text or token ids", "invalid_value")
    return TokenPrompt(tuple(part for part in parts if isinstance(part, int)))


class Choice(msgspec.Struct, frozen=True):
    text: str
    finish_reason: str | None = None
    index: int = 0
    logprobs: None = None
    token_ids: TokenIds = UNSET


class TextCompletion(msgspec.Struct, frozen=True, tag_field="object", tag="text_completion"):
    """A whole answer and a chunk alike: OpenAI gives both the same name and shape."""

    id: str
    created: int
    model: str
    choices: tuple[Choice, ...]
    usage: UsageBody | UnsetType | None = UNSET


class CompletionReply(msgspec.Struct, frozen=True):
    """Builds the JSON of one completion. ``created`` is in Unix seconds. Implements :class:`reply.Reply`."""

    id: str
    created: int
    model: str
    include_usage: bool = False
    token_ids: bool = False

    def opening(self) -> bytes | None:
        return None

    def text(self, text: str, token_ids: tuple[int, ...]) -> bytes:
        return self._chunk(Choice(text, token_ids=token_ids if self.token_ids else UNSET))

    def finish(self, reason: str) -> bytes:
        return self._chunk(Choice("", finish_reason=reason))

    def usage(self, usage: UsageBody) -> bytes:
        return msgspec.json.encode(TextCompletion(self.id, self.created, self.model, (), usage))

    def whole(self, text: str, token_ids: tuple[int, ...], reason: str, usage: UsageBody) -> bytes:
        choice = Choice(text, finish_reason=reason, token_ids=token_ids if self.token_ids else UNSET)
        return msgspec.json.encode(TextCompletion(self.id, self.created, self.model, (choice,), usage))

    def _chunk(self, choice: Choice) -> bytes:
        usage = None if self.include_usage else UNSET
        return msgspec.json.encode(TextCompletion(self.id, self.created, self.model, (choice,), usage))
