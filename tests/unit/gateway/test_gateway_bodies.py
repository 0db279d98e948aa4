"""Request bodies: what is understood, what is ignored, and that every refusal names its parameter."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from rpcmesh.engine.messages import (
    ChatMessage,
    ChatPrompt,
    GenerateRequest,
    Sampling,
    TextPrompt,
    TokenPrompt,
    encode,
)
from rpcmesh.gateway.chat import parse_chat
from rpcmesh.gateway.completions import parse_completion
from rpcmesh.gateway.errors import ApiError
from rpcmesh.gateway.fields import Call

CHAT = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
COMPLETION = {"model": "m", "prompt": "hi"}


def chat(**changes: Any) -> Call:
    return parse_chat(json.dumps(CHAT | changes).encode(), "id")


def completion(**changes: Any) -> Call:
    return parse_completion(json.dumps(COMPLETION | changes).encode(), "id")


def refusal(parse: Callable[..., Call], **changes: Any) -> ApiError:
    with pytest.raises(ApiError) as caught:
        parse(**changes)
    return caught.value


def at_fault(prompt: str, form: str = "") -> dict[str, str]:
    """Which parameter is to blame for each code that the engine may answer."""
    return {
        "context_length_exceeded": prompt,
        "invalid_prompt": prompt,
        "invalid_logit_bias": "logit_bias",
        "invalid_grammar": form,
        "model_not_supported": "model",
    }


def user(content: Any) -> list[dict[str, Any]]:
    return [{"role": "user", "content": content}]


def test_a_minimal_chat_has_the_documented_defaults() -> None:
    request = GenerateRequest(
        id="id", prompt=ChatPrompt((ChatMessage("user", "hi"),)), max_tokens=None, sampling=Sampling()
    )
    assert chat() == Call(
        model="m", request=request, stream=False, include_usage=False, at_fault=at_fault("messages"), n=1
    )


def test_a_minimal_completion_has_the_documented_defaults() -> None:
    request = GenerateRequest(id="id", prompt=TextPrompt("hi"), max_tokens=16, sampling=Sampling())
    assert completion() == Call(
        model="m", request=request, stream=False, include_usage=False, at_fault=at_fault("prompt"), n=1
    )


@pytest.mark.parametrize("parse", [chat, completion])
def test_every_sampling_field_arrives(parse: Callable[..., Call]) -> None:
    call = parse(
        temperature=0,
        top_p=0.5,
        top_k=40,
        min_p=0.05,
        seed=-3,
        presence_penalty=-2,
        frequency_penalty=2,
        repeat_penalty=1.1,
        stop=["a", "b"],
        ignore_eos=True,
        max_tokens=5,
        logit_bias={"7": -100, "8": 2.5, "9": -99.5},
        n=16,
    )
    bias = ((7, -math.inf), (8, 2.5), (9, -99.5))
    assert call.request.sampling == Sampling(0.0, 0.5, 40, 0.05, -3, -2.0, 2.0, 1.1, ("a", "b"), bias)
    assert (call.request.ignore_eos, call.request.max_tokens, call.n) == (True, 5, 16)


NULLABLE = [
    *("temperature", "top_p", "presence_penalty", "frequency_penalty", "stop", "seed", "stream", "stream_options"),
    *("top_k", "min_p", "repeat_penalty", "ignore_eos", "n", "logprobs", "logit_bias", "response_format", "max_tokens"),
    *("priority", "deadline_s"),
    *("grammar", "json_schema"),
]


@pytest.mark.parametrize("parse", [chat, completion])
def test_null_is_the_default(parse: Callable[..., Call]) -> None:
    assert parse(**dict.fromkeys(NULLABLE)) == parse()


@pytest.mark.parametrize(
    ("parse", "field", "value"),
    [
        (chat, "n", 1),
        (chat, "tools", []),
        (chat, "tool_choice", "none"),
        (chat, "tool_choice", "auto"),
        (chat, "functions", []),
        (chat, "logprobs", False),
        (chat, "top_logprobs", 0),
        (chat, "logit_bias", {}),
        (chat, "response_format", {"type": "text"}),
        (chat, "grammar", ""),
        (chat, "json_schema", {}),
        (chat, "modalities", ["text"]),
        (chat, "user", "somebody"),
        (chat, "metadata", {"a": "b"}),
        (chat, "parallel_tool_calls", True),
        (chat, "never_heard_of", [1, {"a": None}]),
        (chat, "top_k", -1),
        (completion, "best_of", 1),
        (completion, "suffix", ""),
        (completion, "echo", False),
        (completion, "never_heard_of", 5),
    ],
)
def test_a_value_that_asks_for_nothing_changes_nothing(parse: Callable[..., Call], field: str, value: object) -> None:
    assert parse(**{field: value}) == parse()


UNSUPPORTED: list[tuple[Callable[..., Call], str, object]] = [
    (chat, "tools", [{"type": "function", "function": {"name": "f"}}]),
    (chat, "tool_choice", "required"),
    (chat, "tool_choice", {"type": "function", "function": {"name": "f"}}),
    (chat, "functions", [{"name": "f"}]),
    (chat, "function_call", {"name": "f"}),
    (chat, "modalities", ["text", "audio"]),
    (chat, "audio", {"voice": "alloy", "format": "wav"}),
    (chat, "web_search_options", {}),
    (completion, "best_of", 3),
    (completion, "suffix", "end"),
    (completion, "echo", True),
]


@pytest.mark.parametrize(("parse", "field", "value"), UNSUPPORTED)
def test_what_would_change_the_answer_is_refused(parse: Callable[..., Call], field: str, value: object) -> None:
    error = refusal(parse, **{field: value})
    assert (error.status, error.kind, error.param, error.code) == (
        400,
        "invalid_request_error",
        field,
        "unsupported_parameter",
    )
    assert field in error.message


OUT_OF_RANGE: list[tuple[str, object]] = [
    *(("temperature", value) for value in (-0.1, 2.1, "hot", True)),
    *(("top_p", value) for value in (-0.1, 1.1)),
    *(("min_p", value) for value in (-0.1, 1.1)),
    *(("presence_penalty", value) for value in (-2.1, 2.1)),
    *(("frequency_penalty", value) for value in (-2.1, 2.1)),
    *(("repeat_penalty", value) for value in (0, -1, 2.1)),
    *(("top_k", value) for value in (-2, 1.5, 2**31)),
    *(("seed", value) for value in ("x", 1.5, 2**63, -(2**63) - 1)),
    *(("max_tokens", value) for value in (0, -1, 1.5, 2**31, "9")),
    *(("priority", value) for value in (-1, 101, 0.5, "low", True)),
    *(("deadline_s", value) for value in (0, -1, 86_401, "soon", True)),
    ("stop", ""),
    ("stop", ["a", "b", "c", "d", "e"]),
    ("stop", "a" * 1025),
    ("stop", 5),
    *(("stream", value) for value in ("yes", 1)),
    *(("ignore_eos", value) for value in ("yes", 1)),
    ("stream_options", "all"),
    ("stream_options", []),
    ("model", 5),
    ("model", "m" * 300),
    *(("n", value) for value in (0, 17, 1.5, "2", True)),
    *(("logit_bias", value) for value in ({"x": 1}, {"-1": 1}, {"5": 101}, {"5": -101}, {"5": "x"}, [5], 5)),
    ("logit_bias", {str(token): 1 for token in range(1025)}),
    ("logprobs", "yes"),
    ("grammar", 5),
    ("json_schema", "object"),
    ("response_format", "json"),
]


@pytest.mark.parametrize("parse", [chat, completion])
def test_what_the_queue_goes_by_arrives(parse: Callable[..., Call]) -> None:
    call = parse(priority=7, deadline_s=2)
    assert (call.priority, call.deadline_s) == (7, 2.0)


@pytest.mark.parametrize("parse", [chat, completion])
@pytest.mark.parametrize(("field", "value"), OUT_OF_RANGE)
def test_a_value_out_of_range_names_its_parameter(parse: Callable[..., Call], field: str, value: object) -> None:
    error = refusal(parse, **{field: value})
    assert (error.status, error.param, error.code) == (400, field, "invalid_value")
    assert field in error.message


@pytest.mark.parametrize(
    ("parse", "changes", "param", "code"),
    [
        (chat, {"stop": ["a", ""]}, "stop[1]", "invalid_value"),
        (chat, {"n": 5, "logprobs": True, "top_logprobs": 20}, "n", "invalid_value"),
        (chat, {"stream_options": {"include_usage": True}}, "stream_options", None),
        (
            chat,
            {"stream": True, "stream_options": {"include_usage": 1}},
            "stream_options.include_usage",
            "invalid_value",
        ),
        (chat, {"max_tokens": 5, "max_completion_tokens": 6}, "max_tokens", None),
        (chat, {"max_completion_tokens": 0}, "max_completion_tokens", "invalid_value"),
        (chat, {"messages": []}, "messages", "invalid_value"),
        (chat, {"messages": "hi"}, "messages", "invalid_value"),
        (chat, {"messages": [{"content": "hi"}]}, "messages[0].role", "missing_required_parameter"),
        (chat, {"messages": [{"role": "user"}]}, "messages[0].content", "missing_required_parameter"),
        (chat, {"messages": user(None)}, "messages[0].content", "missing_required_parameter"),
        (chat, {"messages": user(5)}, "messages[0].content", "invalid_value"),
        (chat, {"messages": user([{"text": "x"}])}, "messages[0].content[0].type", "missing_required_parameter"),
        (chat, {"messages": user([{"type": "text"}])}, "messages[0].content[0].text", "missing_required_parameter"),
        (
            chat,
            {"messages": user([{"type": "text", "text": "x"}, {"type": "image_url", "image_url": {"url": "u"}}])},
            "messages[0].content[1].type",
            "unsupported_value",
        ),
        (chat, {"messages": [*user("a"), {"role": "tool", "content": "x"}]}, "messages[1].role", "unsupported_value"),
        (chat, {"messages": [{"role": "function", "content": "x"}]}, "messages[0].role", "unsupported_value"),
        (chat, {"messages": [{"role": "king", "content": "x"}]}, "messages[0].role", "unsupported_value"),
        (
            chat,
            {"messages": [{"role": "assistant", "content": None, "tool_calls": [{"id": "x"}]}]},
            "messages[0].tool_calls",
            "unsupported_parameter",
        ),
        (chat, {"logprobs": 3}, "logprobs", "invalid_value"),
        (chat, {"top_logprobs": 3}, "top_logprobs", None),
        (chat, {"logprobs": False, "top_logprobs": 3}, "top_logprobs", None),
        (chat, {"logprobs": True, "top_logprobs": 21}, "top_logprobs", "invalid_value"),
        (chat, {"response_format": {}}, "response_format.type", "missing_required_parameter"),
        (chat, {"response_format": {"type": "xml"}}, "response_format.type", "unsupported_value"),
        (
            chat,
            {"response_format": {"type": "json_schema"}},
            "response_format.json_schema",
            "missing_required_parameter",
        ),
        (
            chat,
            {"response_format": {"type": "json_schema", "json_schema": {"name": "x"}}},
            "response_format.json_schema.schema",
            "missing_required_parameter",
        ),
        (chat, {"response_format": {"type": "json_object"}, "grammar": "root ::= x"}, "grammar", None),
        (chat, {"json_schema": {"type": "object"}, "grammar": "root ::= x"}, "json_schema", None),
        (chat, {"grammar": "root ::= x", "ignore_eos": True}, "ignore_eos", None),
        (completion, {"logprobs": True}, "logprobs", "invalid_value"),
        (completion, {"logprobs": 6}, "logprobs", "invalid_value"),
        (completion, {"prompt": []}, "prompt", "invalid_value"),
        (completion, {"prompt": None}, "prompt", "invalid_value"),
        (completion, {"prompt": [-1]}, "prompt[0]", "invalid_value"),
        (completion, {"prompt": [1, 2**31]}, "prompt[1]", "invalid_value"),
        (completion, {"prompt": [["a"]]}, "prompt[0][0]", "invalid_value"),
        (completion, {"prompt": [[]]}, "prompt", "invalid_value"),
        (completion, {"prompt": ["a", "b"]}, "prompt", "unsupported_value"),
        (completion, {"prompt": [[1], [2]]}, "prompt", "unsupported_value"),
        (completion, {"prompt": [1, "a"]}, "prompt", "unsupported_value"),
    ],
)
def test_a_refusal_names_the_exact_place(
    parse: Callable[..., Call], changes: dict[str, Any], param: str, code: str | None
) -> None:
    error = refusal(parse, **changes)
    assert (error.status, error.param, error.code) == (400, param, code)


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("hi", TextPrompt("hi")),
        (["hi"], TextPrompt("hi")),
        ([1, 2], TokenPrompt((1, 2))),
        ([7], TokenPrompt((7,))),
        ([[1, 2]], TokenPrompt((1, 2))),
    ],
)
def test_a_prompt_is_one_text_or_one_token_list(prompt: object, expected: object) -> None:
    assert completion(prompt=prompt).request.prompt == expected


def test_roles_names_and_parts_become_messages() -> None:
    messages = [
        {"role": "developer", "content": "be brief"},
        {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}], "name": "ann"},
        {"role": "assistant", "content": "", "tool_calls": [], "refusal": None},
    ]
    assert chat(messages=messages).request.prompt == ChatPrompt(
        (ChatMessage("system", "be brief"), ChatMessage("user", "a\nb", "ann"), ChatMessage("assistant", ""))
    )


@pytest.mark.parametrize(
    ("changes", "max_tokens"),
    [
        ({"max_completion_tokens": 5}, 5),
        ({"max_tokens": 5}, 5),
        ({"max_tokens": 5, "max_completion_tokens": 5}, 5),
    ],
)
def test_max_completion_tokens_is_max_tokens(changes: dict[str, int], max_tokens: int) -> None:
    assert chat(**changes).request.max_tokens == max_tokens


@pytest.mark.parametrize(
    ("options", "include_usage"),
    [(None, False), ({}, False), ({"include_usage": False}, False), ({"include_usage": True}, True)],
)
def test_usage_in_a_stream_is_on_request(options: object, include_usage: bool) -> None:
    call = chat(stream=True, stream_options=options)
    assert (call.stream, call.include_usage) == (True, include_usage)


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"", "truncated"),
        (b"{", "truncated"),
        (b'{"model": "m",}', "byte 14"),
        (b'{"model": xyz }', "byte 10"),
        (b'{"model": "\xff"}', "UTF-8"),
        (b'{"model": "\\ud800 and more"}', "surrogate"),
        (b'{"x": ' + b"[" * 100_000, "nested too deeply"),
    ],
)
def test_broken_json_says_where(body: bytes, says: str) -> None:
    with pytest.raises(ApiError) as caught:
        parse_chat(body, "id")
    assert (caught.value.status, caught.value.param, caught.value.code) == (400, None, "invalid_json")
    assert says in caught.value.message


@pytest.mark.parametrize("body", [b"[]", b"5", b"null", b'"x"'])
def test_a_body_that_is_no_object_is_refused(body: bytes) -> None:
    with pytest.raises(ApiError, match="expected `object`"):
        parse_chat(body, "id")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
FIELDS = st.sampled_from(["model", "prompt", "messages", "stop", "seed", "n", "tools", "stream_options", *NULLABLE])


def understood(parse: Callable[[bytes, str], Call], body: dict[str, Any]) -> Call | ApiError:
    try:
        return parse(json.dumps(body).encode(), "id")
    except ApiError as error:
        return error


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.dictionaries(FIELDS, JSON))
@example({"temperature": 1e999})
@example({"messages": [{"role": "user", "content": "\udfff"}]})
def test_any_json_is_a_400_or_reaches_the_wire(body: dict[str, Any]) -> None:
    for parse, base in ((parse_chat, CHAT), (parse_completion, COMPLETION)):
        match understood(parse, base | body):
            case ApiError() as error:
                assert error.status == 400
                assert json.loads(error.encode())["error"]["message"]
            case call:
                assert encode(call.request)


@settings(deadline=None)
@given(st.binary(max_size=60))
def test_any_bytes_are_a_400_at_worst(body: bytes) -> None:
    with pytest.raises(ApiError) as caught:
        parse_chat(body, "id")
    assert caught.value.status == 400
