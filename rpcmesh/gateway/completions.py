"""``/v1/completions``: its body parsed once, its answers built. No I/O, no clock."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import msgspec
from msgspec import UNSET, Meta, UnsetType

from rpcmesh.engine.messages import TextPrompt, TokenPrompt
from rpcmesh.gateway.errors import invalid, unsupported_value
from rpcmesh.gateway.fields import Call, CommonBody, TokenCount, TokenId, call, decode, refuse_unsupported
from rpcmesh.gateway.logprobs import CompletionLogprobs, completion_logprobs
from rpcmesh.gateway.reply import Said, TokenIds, UsageBody, Whole

# OpenAI's documented default for this endpoint; chat has none.
DEFAULT_MAX_TOKENS = 16

Tokens = tuple[TokenId, ...]


class CompletionBody(CommonBody, frozen=True, kw_only=True):
    prompt: str | tuple[str | TokenId | Tokens, ...]
    max_tokens: TokenCount | None = None
    logprobs: Annotated[int, Meta(ge=0, le=5)] | None = None

    best_of: Any = None
    suffix: Any = None
    echo: Any = None


HARMLESS: Mapping[str, tuple[object, ...]] = {
    "best_of": (None, 1),
    "suffix": (None, ""),
    "echo": (None, False),
}

_decoder = msgspec.json.Decoder(CompletionBody)


def parse_completion(body: bytes, request_id: str) -> Call:
    """A request body, or :class:`ApiError` 400 that names the parameter at fault."""
    parsed = decode(_decoder, body)
    refuse_unsupported(parsed, HARMLESS)
    return call(
        parsed,
        request_id=request_id,
        prompt=_prompt(parsed.prompt),
        prompt_param="prompt",
        max_tokens=DEFAULT_MAX_TOKENS if parsed.max_tokens is None else parsed.max_tokens,
        top_logprobs=parsed.logprobs,
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
    logprobs: CompletionLogprobs | None = None
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
    logprobs: bool = False

    def opening(self, _index: int) -> bytes | None:
        return None

    def chunk(self, index: int, said: Said) -> bytes:
        return self._chunk(self._choice(index, said))

    def finish(self, index: int, reason: str) -> bytes:
        return self._chunk(Choice("", finish_reason=reason, index=index))

    def usage(self, usage: UsageBody) -> bytes:
        return msgspec.json.encode(TextCompletion(self.id, self.created, self.model, (), usage))

    def whole(self, choices: Sequence[Whole], usage: UsageBody) -> bytes:
        rows = tuple(self._choice(index, each.said, each.finish_reason) for index, each in enumerate(choices))
        return msgspec.json.encode(TextCompletion(self.id, self.created, self.model, rows, usage))

    def _choice(self, index: int, said: Said, reason: str | None = None) -> Choice:
        logprobs = completion_logprobs(said.logprobs, said.offsets) if self.logprobs else None
        shown = said.token_ids if self.token_ids else UNSET
        return Choice(said.text, finish_reason=reason, index=index, logprobs=logprobs, token_ids=shown)

    def _chunk(self, choice: Choice) -> bytes:
        usage = None if self.include_usage else UNSET
        return msgspec.json.encode(TextCompletion(self.id, self.created, self.model, (choice,), usage))


def completion_reply(answer_id: str, created: int, asked: Call) -> CompletionReply:
    shows_logprobs = asked.request.top_logprobs is not None
    return CompletionReply(answer_id, created, asked.model, asked.include_usage, asked.token_ids, shows_logprobs)
