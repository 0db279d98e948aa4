"""The body fields that both completion endpoints share: their ranges, what is refused, how a bad body is worded."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import Meta

from rpcmesh.engine.messages import GenerateRequest, Sampling
from rpcmesh.gateway.errors import ApiError, invalid, unsupported_parameter

# Short enough to be quoted in an error.
Label = Annotated[str, Meta(max_length=256)]
Temperature = Annotated[float, Meta(ge=0, le=2)]
Share = Annotated[float, Meta(ge=0, le=1)]
Penalty = Annotated[float, Meta(ge=-2, le=2)]
RepeatPenalty = Annotated[float, Meta(gt=0, le=2)]
# llama.cpp counts tokens in 32 bits, and the wire to the engine carries 64.
TokenCount = Annotated[int, Meta(ge=1, le=2**31 - 1)]
TopK = Annotated[int, Meta(ge=-1, le=2**31 - 1)]
Seed = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
StopString = Annotated[str, Meta(min_length=1)]
# vLLM's meaning, of which only the half that lets others go first: no key may jump the queue.
Priority = Annotated[int, Meta(ge=0, le=100)]
DeadlineSeconds = Annotated[float, Meta(gt=0, le=86_400)]
Stop = StopString | Annotated[tuple[StopString, ...], Meta(max_length=4)]


class StreamOptions(msgspec.Struct, frozen=True):
    include_usage: bool | None = None


class CommonBody(msgspec.Struct, frozen=True, kw_only=True):
    """What both bodies have. Null means the default, as OpenAI's clients send it; fields not named here are ignored."""

    model: Label
    temperature: Temperature | None = None
    top_p: Share | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    stop: Stop | None = None
    seed: Seed | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None

    # llama.cpp's own, as its server spells them
    top_k: TopK | None = None
    min_p: Share | None = None
    repeat_penalty: RepeatPenalty | None = None
    ignore_eos: bool | None = None

    # vLLM's: the answer's tokens beside its text
    return_token_ids: bool | None = None

    # The queue's: a lower priority goes first; seconds from arrival until the answer must be whole
    priority: Priority | None = None
    deadline_s: DeadlineSeconds | None = None

    # Known, refused unless harmless. They are fields so that one decode finds them.
    n: Any = None
    logprobs: Any = None
    logit_bias: Any = None
    grammar: Any = None
    json_schema: Any = None
    response_format: Any = None

    def sampling(self) -> Sampling:
        return Sampling(
            temperature=_default(self.temperature, 1.0),
            top_p=_default(self.top_p, 1.0),
            top_k=max(0, _default(self.top_k, 0)),
            min_p=_default(self.min_p, 0.0),
            seed=self.seed,
            presence_penalty=_default(self.presence_penalty, 0.0),
            frequency_penalty=_default(self.frequency_penalty, 0.0),
            repeat_penalty=_default(self.repeat_penalty, 1.0),
            stop=(self.stop,) if isinstance(self.stop, str) else self.stop or (),
        )


class Call(msgspec.Struct, frozen=True):
    """A body understood: what goes to the engine and how the client wants the answer."""

    model: str
    request: GenerateRequest
    stream: bool
    include_usage: bool
    token_ids: bool = False
    priority: int = 0
    deadline_s: float | None = None


# Fields that would change the answer's meaning if ignored, each with the values that ask for nothing.
COMMON_HARMLESS: Mapping[str, tuple[object, ...]] = {
    "n": (None, 1),
    "logprobs": (None, False),
    "logit_bias": (None, {}),
    "grammar": (None, ""),
    "json_schema": (None, {}),
    "response_format": (None, {"type": "text"}),
}


def refuse_unsupported(fields: msgspec.Struct, harmless: Mapping[str, tuple[object, ...]], prefix: str = "") -> None:
    """Raise for the first field whose value asks for something. ``prefix`` is the path of ``fields`` in the body."""
    for name, values in harmless.items():
        if not _among(getattr(fields, name), values):
            raise unsupported_parameter(prefix + name, f"{name!r} is not supported here: leave it out")


def streaming(body: CommonBody) -> tuple[bool, bool]:
    """``(stream, include_usage)``."""
    stream = body.stream is True
    if body.stream_options is not None and not stream:
        raise invalid("stream_options", "'stream_options' is allowed only with 'stream': true")
    return stream, body.stream_options is not None and body.stream_options.include_usage is True


B = TypeVar("B")

_PATH = re.compile(r"(?P<what>.*) - at `\$\.?(?P<path>.*)`", re.DOTALL)
_MISSING = re.compile(r"Object missing required field `(?P<field>[^`]+)`")


def decode(decoder: msgspec.json.Decoder[B], body: bytes) -> B:
    """The body as a struct. Raises :class:`ApiError` 400 that names the byte or the parameter at fault."""
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        raise _bad_field(str(error)) from error
    except msgspec.DecodeError as error:
        fault = str(error).removeprefix("JSON is malformed: ")
        raise invalid(None, f"the body is not valid JSON: {_lower(fault)}", "invalid_json") from error
    except UnicodeDecodeError as error:
        raise invalid(None, f"the body is not valid UTF-8: {error.reason}", "invalid_json") from error
    except RecursionError as error:
        raise invalid(None, "the body is nested too deeply", "invalid_json") from error


def _bad_field(text: str) -> ApiError:
    """msgspec's ``Expected `float` <= 2.0 - at `$.temperature``` with the path as OpenAI's ``param``."""
    located = _PATH.fullmatch(text)
    what, path = (located["what"], located["path"]) if located else (text, "")
    missing = _MISSING.fullmatch(what)
    if missing:
        param = f"{path}.{missing['field']}" if path else missing["field"]
        return invalid(param, f"missing required parameter {param!r}", "missing_required_parameter")
    if not path:
        return invalid(None, f"the body is not what was expected: {_lower(what)}")
    return invalid(path, f"invalid {path!r}: {_lower(what)}", "invalid_value")


def _lower(sentence: str) -> str:
    return sentence[:1].lower() + sentence[1:]


def _among(value: object, harmless: Iterable[object]) -> bool:
    # Types count: to Python 0 is False and 1 is True, to a client "logprobs": 0 asks for log probabilities.
    return any(type(value) is type(other) and value == other for other in harmless)


N = TypeVar("N", int, float)


def _default(value: N | None, default: N) -> N:
    return default if value is None else value
