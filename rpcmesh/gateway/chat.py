"""``/v1/chat/completions``: its body parsed once, its answers built. No I/O, no clock."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import msgspec
from msgspec import UNSET, Meta, UnsetType

from rpcmesh.engine.messages import ChatMessage, ChatPrompt
from rpcmesh.gateway.errors import invalid, unsupported_value
from rpcmesh.gateway.fields import (
    Call,
    CommonBody,
    Label,
    TokenCount,
    call,
    decode,
    refuse_unsupported,
)
from rpcmesh.gateway.logprobs import ChatLogprobs, chat_logprobs
from rpcmesh.gateway.reply import Said, TokenIds, UsageBody, Whole

# "developer" is what OpenAI's newer models call "system"; chat templates know the old name only.
ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}


class Part(msgspec.Struct, frozen=True):
    type: Label
    text: str | None = None


class MessageBody(msgspec.Struct, frozen=True):
    role: Label
    content: str | tuple[Part, ...] | None = None
    name: str | None = None

    tool_calls: Any = None
    function_call: Any = None
    audio: Any = None


class ChatBody(CommonBody, frozen=True, kw_only=True):
    messages: Annotated[tuple[MessageBody, ...], Meta(min_length=1)]
    max_tokens: TokenCount | None = None
    max_completion_tokens: TokenCount | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None

    tools: Any = None
    tool_choice: Any = None
    functions: Any = None
    function_call: Any = None
    modalities: Any = None
    audio: Any = None
    web_search_options: Any = None


HARMLESS: Mapping[str, tuple[object, ...]] = {
    "tools": (None, []),
    "tool_choice": (None, "none", "auto"),
    "functions": (None, []),
    "function_call": (None, "none", "auto"),
    "modalities": (None, ["text"]),
    "audio": (None,),
    "web_search_options": (None,),
}
HARMLESS_IN_MESSAGE: Mapping[str, tuple[object, ...]] = {
    "tool_calls": (None, []),
    "function_call": (None,),
    "audio": (None,),
}

_decoder = msgspec.json.Decoder(ChatBody)


def parse_chat(body: bytes, request_id: str) -> Call:
    """A request body, or :class:`ApiError` 400 that names the parameter at fault."""
    parsed = decode(_decoder, body)
    refuse_unsupported(parsed, HARMLESS)
    return call(
        parsed,
        request_id=request_id,
        prompt=ChatPrompt(tuple(_message(each, f"messages[{i}]") for i, each in enumerate(parsed.messages))),
        prompt_param="messages",
        max_tokens=_max_tokens(parsed),
        top_logprobs=_top_logprobs(parsed),
    )


def _top_logprobs(body: ChatBody) -> int | None:
    """How many beside each token's own; None where no log probabilities are wanted."""
    if body.logprobs is True:
        return body.top_logprobs or 0
    if body.top_logprobs:
        raise invalid("top_logprobs", "'top_logprobs' is allowed only with 'logprobs': true")
    return None


def _max_tokens(body: ChatBody) -> int | None:
    """``max_completion_tokens``, or the older name for it."""
    old, new = body.max_tokens, body.max_completion_tokens
    if old is not None and new is not None and old != new:
        raise invalid("max_tokens", f"'max_tokens' {old} contradicts 'max_completion_tokens' {new}: give one of them")
    return old if new is None else new


def _message(message: MessageBody, path: str) -> ChatMessage:
    refuse_unsupported(message, HARMLESS_IN_MESSAGE, prefix=f"{path}.")
    role = ROLES.get(message.role)
    if role is None:
        known = ", ".join(ROLES)
        raise unsupported_value(f"{path}.role", f"the role {message.role!r} is not supported here: use one of {known}")
    return ChatMessage(role=role, content=_content(message.content, f"{path}.content"), name=message.name)


def _content(content: str | tuple[Part, ...] | None, path: str) -> str:
    match content:
        case None:
            raise invalid(path, f"missing required parameter {path!r}", "missing_required_parameter")
        case str():
            return content
        case parts:
            # Separate parts are separate thoughts: a line break keeps their words apart, as llama.cpp's server does.
            return "\n".join(_text(part, f"{path}[{i}]") for i, part in enumerate(parts))


def _text(part: Part, path: str) -> str:
    if part.type != "text":
        raise unsupported_value(f"{path}.type", f"content of type {part.type!r} is not supported here: send text")
    if part.text is None:
        raise invalid(f"{path}.text", f"missing required parameter '{path}.text'", "missing_required_parameter")
    return part.text


class Spoken(msgspec.Struct, frozen=True):
    """The whole answer."""

    content: str
    role: str = "assistant"
    refusal: str | None = None


class Piece(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a chunk adds to the answer; the last chunk adds nothing."""

    role: str | None = None
    content: str | None = None


class Choice(msgspec.Struct, frozen=True):
    message: Spoken
    finish_reason: str
    index: int = 0
    logprobs: ChatLogprobs | None = None
    token_ids: TokenIds = UNSET


class ChunkChoice(msgspec.Struct, frozen=True):
    delta: Piece
    finish_reason: str | None = None
    index: int = 0
    logprobs: ChatLogprobs | None = None
    token_ids: TokenIds = UNSET


class ChatCompletion(msgspec.Struct, frozen=True, tag_field="object", tag="chat.completion"):
    id: str
    created: int
    model: str
    choices: tuple[Choice, ...]
    usage: UsageBody


class ChatChunk(msgspec.Struct, frozen=True, tag_field="object", tag="chat.completion.chunk"):
    id: str
    created: int
    model: str
    choices: tuple[ChunkChoice, ...]
    usage: UsageBody | UnsetType | None = UNSET


class ChatReply(msgspec.Struct, frozen=True):
    """Builds the JSON of one chat answer. ``created`` is in Unix seconds. Implements :class:`reply.Reply`."""

    id: str
    created: int
    model: str
    include_usage: bool = False
    token_ids: bool = False
    logprobs: bool = False

    def opening(self, index: int) -> bytes | None:
        return self._chunk(ChunkChoice(Piece(role="assistant", content=""), index=index))

    def chunk(self, index: int, said: Said) -> bytes:
        choice = ChunkChoice(
            Piece(content=said.text), index=index, logprobs=self._logprobs(said), token_ids=self._token_ids(said)
        )
        return self._chunk(choice)

    def finish(self, index: int, reason: str) -> bytes:
        return self._chunk(ChunkChoice(Piece(), finish_reason=reason, index=index))

    def usage(self, usage: UsageBody) -> bytes:
        return msgspec.json.encode(ChatChunk(self.id, self.created, self.model, (), usage))

    def whole(self, choices: Sequence[Whole], usage: UsageBody) -> bytes:
        rows = tuple(
            Choice(
                Spoken(each.said.text),
                finish_reason=each.finish_reason,
                index=index,
                logprobs=self._logprobs(each.said),
                token_ids=self._token_ids(each.said),
            )
            for index, each in enumerate(choices)
        )
        return msgspec.json.encode(ChatCompletion(self.id, self.created, self.model, rows, usage))

    def _logprobs(self, said: Said) -> ChatLogprobs | None:
        return chat_logprobs(said.logprobs) if self.logprobs else None

    def _token_ids(self, said: Said) -> TokenIds:
        return said.token_ids if self.token_ids else UNSET

    def _chunk(self, choice: ChunkChoice) -> bytes:
        # With include_usage OpenAI sends "usage": null on every chunk but the one that carries it.
        usage = None if self.include_usage else UNSET
        return msgspec.json.encode(ChatChunk(self.id, self.created, self.model, (choice,), usage))


def chat_reply(answer_id: str, created: int, asked: Call) -> ChatReply:
    shows_logprobs = asked.request.top_logprobs is not None
    return ChatReply(answer_id, created, asked.model, asked.include_usage, asked.token_ids, shows_logprobs)
