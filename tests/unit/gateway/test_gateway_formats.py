"""What bodies ask of an answer's form, and how much of its tokens' probabilities they want to see."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from rpcmesh.engine.messages import Constraint, GbnfGrammar, JsonSchema
from rpcmesh.gateway.chat import parse_chat
from rpcmesh.gateway.completions import parse_completion
from rpcmesh.gateway.fields import Call


def chat(**changes: Any) -> Call:
    body = {"model": "m", "messages": [{"role": "user", "content": "hi"}]} | changes
    return parse_chat(json.dumps(body).encode(), "id")


def completion(**changes: Any) -> Call:
    return parse_completion(json.dumps({"model": "m", "prompt": "hi"} | changes).encode(), "id")


OBJECT = {"type": "object"}


@pytest.mark.parametrize("parse", [chat, completion])
@pytest.mark.parametrize(
    ("changes", "constraint", "to_blame"),
    [
        ({"grammar": 'root ::= "x"'}, GbnfGrammar('root ::= "x"'), "grammar"),
        ({"json_schema": OBJECT}, JsonSchema('{"type":"object"}'), "json_schema"),
        ({"json_schema": False}, JsonSchema("false"), "json_schema"),
        ({"response_format": {"type": "json_object"}}, JsonSchema('{"type":"object"}'), "response_format"),
        (
            {"response_format": {"type": "json_object", "schema": {"type": "array"}}},
            JsonSchema('{"type":"array"}'),
            "response_format",
        ),
        (
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": "x", "strict": True, "schema": {"const": "é"}},
                }
            },
            JsonSchema('{"const":"é"}'),
            "response_format",
        ),
    ],
)
def test_a_form_of_the_answer_reaches_the_engine(
    parse: Callable[..., Call], changes: dict[str, Any], constraint: Constraint, to_blame: str
) -> None:
    call = parse(**changes)
    assert call.request.constraint == constraint
    assert call.at_fault["invalid_grammar"] == to_blame


@pytest.mark.parametrize(
    ("parse", "changes", "top_logprobs"),
    [
        (chat, {}, None),
        (chat, {"logprobs": True}, 0),
        (chat, {"logprobs": True, "top_logprobs": 20}, 20),
        (chat, {"top_logprobs": 0}, None),
        (completion, {}, None),
        (completion, {"logprobs": 0}, 0),
        (completion, {"logprobs": 5}, 5),
    ],
)
def test_log_probabilities_are_a_number_of_best_tokens_beside_the_sampled_one(
    parse: Callable[..., Call], changes: dict[str, Any], top_logprobs: int | None
) -> None:
    assert parse(**changes).request.top_logprobs == top_logprobs
