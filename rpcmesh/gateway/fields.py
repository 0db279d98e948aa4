"""The body fields that both completion endpoints share: their ranges, what is refused, how a bad body is worded."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import Meta

from rpcmesh.engine.messages import GenerateRequest, Prompt, Sampling
from rpcmesh.gateway.errors import ApiError, invalid, unsupported_parameter
from rpcmesh.gateway.formats import ResponseFormat, constraint

# Short enough to be quoted in an error.
Label = Annotated[str, Meta(max_length=256)]
Temperature = Annotated[float, Meta(ge=0, le=2)]
Share = Annotated[float, Meta(ge=0, le=1)]
Penalty = Annotated[float, Meta(ge=-2, le=2)]
RepeatPenalty = Annotated[float, Meta(gt=0, le=2)]
# llama.cpp counts tokens in 32 bits, and the wire to the engine carries 64.
TokenCount = Annotated[int, Meta(ge=1, le=2**31 - 1)]
TopK = Annotated[int, Meta(ge=-1, le=2**31 - 1)]
TokenId = Annotated[int, Meta(ge=0, le=2**31 - 1)]
Bias = Annotated[float, Meta(ge=-100, le=100)]
# The bias that forbids a token.
FORBIDS = -100
NChoices = Annotated[int, Meta(ge=1, le=16)]
# For each place of an answer, over all choices. A whole answer keeps them all: some 0.5 kB each until it is sent.
TOP_LOGPROBS_MAX = 80
Seed = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
# Each token's text is held against the beginnings of all stop strings.
StopString = Annotated[str, Meta(min_length=1, max_length=1024)]
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

    n: NChoices | None = None
    logit_bias: Annotated[dict[TokenId, Bias], Meta(max_length=1024)] | None = None
    response_format: ResponseFormat | None = None

    # llama.cpp's own, as its server spells them
    top_k: TopK | None = None
    min_p: Share | None = None
    repeat_penalty: RepeatPenalty | None = None
    ignore_eos: bool | None = None
    grammar: str | None = None
    json_schema: dict[str, Any] | bool | None = None

    # vLLM's: the answer's tokens beside its text
    return_token_ids: bool | None = None

    # The queue's: a lower priority goes first; seconds from arrival until the answer must be whole
    priority: Priority | None = None
    deadline_s: DeadlineSeconds | None = None

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
            logit_bias=tuple(
                (token, -math.inf if bias == FORBIDS else bias) for token, bias in (self.logit_bias or {}).items()
            ),
        )


class Call(msgspec.Struct, frozen=True):
    """A body understood: what goes to the engine and how the client wants the answer.

    ``at_fault`` names the body's parameter for each code with which the engine may refuse the request.
    """

    model: str
    request: GenerateRequest
    stream: bool
    include_usage: bool
    at_fault: Mapping[str, str]
    token_ids: bool = False
    priority: int = 0
    deadline_s: float | None = None
    n: int = 1


def call(
    body: CommonBody,
    *,
    request_id: str,
    prompt: Prompt,
    prompt_param: str,
    max_tokens: int | None,
    top_logprobs: int | None,
) -> Call:
    """The call that a body asks for, where the endpoints agree. Raises :class:`ApiError` for a contradiction."""
    stream, include_usage = streaming(body)
    form, form_param = constraint(body.response_format, body.grammar, body.json_schema)
    if form is not None and body.ignore_eos is True:
        raise invalid("ignore_eos", f"'ignore_eos' contradicts {form_param!r}, which says where the answer ends")
    request = GenerateRequest(
        id=request_id,
        prompt=prompt,
        max_tokens=max_tokens,
        sampling=body.sampling(),
        ignore_eos=body.ignore_eos is True,
        constraint=form,
        top_logprobs=top_logprobs,
    )
    at_fault = {
        "context_length_exceeded": prompt_param,
        "invalid_prompt": prompt_param,
        "invalid_logit_bias": "logit_bias",
        "invalid_grammar": form_param,
        "model_not_supported": "model",
    }
    return Call(
        model=body.model,
        request=request,
        stream=stream,
        include_usage=include_usage,
        at_fault=at_fault,
        token_ids=body.return_token_ids is True,
        priority=_default(body.priority, 0),
        deadline_s=body.deadline_s,
        n=_choices(body.n, top_logprobs or 0),
    )


def _choices(asked: int | None, top_logprobs: int) -> int:
    n = _default(asked, 1)
    if n * top_logprobs > TOP_LOGPROBS_MAX:
        message = f"'n' {n} with {top_logprobs} log probabilities each exceeds {TOP_LOGPROBS_MAX}: ask for fewer"
        raise invalid("n", message, "invalid_value")
    return n


def refuse_unsupported(fields: msgspec.Struct, harmless: Mapping[str, tuple[object, ...]], prefix: str = "") -> None:
    """Raise for the first field whose value asks for something. ``prefix`` is the path of ``fields`` in the body.

    ``harmless`` are fields that would change the answer's meaning if ignored, with the values that ask for nothing.
    """
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

# A dictionary's keys and values have no path of their own: ``at `key` in `$.logit_bias```, ``at `$.logit_bias[...]```.
_PATH = re.compile(r"(?P<what>.*) - at (?:`key` in )?`\$\.?(?P<path>.*?)(?:\[\.\.\.\])?`", re.DOTALL)
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
    # Types count: to Python 0 is False and 1 is True, to a client they need not be.
    return any(type(value) is type(other) and value == other for other in harmless)


N = TypeVar("N", int, float)


def _default(value: N | None, default: N) -> N:
    return default if value is None else value
