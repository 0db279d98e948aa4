"""Answers have the shapes of OpenAI's own client types, whole and in pieces."""

from __future__ import annotations

import json
import math
from collections.abc import AsyncIterator
from typing import Any

import pytest
from openai.types import Completion
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from rpcmesh.engine.messages import Candidate, Delta, FinishReason, TokenLogprobs, Usage
from rpcmesh.gateway.chat import ChatReply
from rpcmesh.gateway.completions import CompletionReply
from rpcmesh.gateway.reply import Outcome, Reply, Said, UnfinishedError, UsageBody, Whole, collect, events

LAST = Delta("", "", (3,), finish_reason="length", usage=Usage(prompt_tokens=7, completion_tokens=3))
USAGE = {
    "prompt_tokens": 7,
    "completion_tokens": 3,
    "total_tokens": 10,
    "prompt_tokens_details": {"cached_tokens": 0},
}
OUTCOME = Outcome("length", UsageBody(7, 3, 10))


def delta(text: str) -> Delta:
    return Delta("", text, (1,))


async def source(*deltas: Delta | tuple[int, Delta]) -> AsyncIterator[tuple[int, Delta]]:
    """Each delta of the only choice, or of the one whose number is with it."""
    for each in deltas:
        yield each if isinstance(each, tuple) else (0, each)


async def streamed(reply: Reply, *deltas: Delta | tuple[int, Delta], n: int = 1) -> tuple[list[Any], list[Outcome]]:
    """The JSON of each event (``[DONE]`` as text), and what ``on_end`` was told."""
    outcomes: list[Outcome] = []
    raw = b"".join([piece async for piece in events(source(*deltas), n, reply, outcomes.append)])
    lines = [line.removeprefix(b"data: ") for line in raw.split(b"\n\n") if line]
    return [line.decode() if line == b"[DONE]" else json.loads(line) for line in lines], outcomes


def test_a_whole_chat_answer() -> None:
    body = json.loads(
        ChatReply("chatcmpl-1", 5, "m").whole([Whole(Said("Paris.", (8, 9)), "stop")], UsageBody(7, 3, 10))
    )
    assert body == {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 5,
        "model": "m",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "Paris.", "refusal": None},
                "logprobs": None,
                "finish_reason": "stop",
            }
        ],
        "usage": USAGE,
    }
    ChatCompletion.model_validate(body, strict=True)


def test_a_whole_completion() -> None:
    body = json.loads(
        CompletionReply("cmpl-1", 5, "m").whole([Whole(Said("Paris.", (8, 9)), "length")], UsageBody(7, 3, 10))
    )
    assert body == {
        "id": "cmpl-1",
        "object": "text_completion",
        "created": 5,
        "model": "m",
        "choices": [{"index": 0, "text": "Paris.", "logprobs": None, "finish_reason": "length"}],
        "usage": USAGE,
    }
    Completion.model_validate(body, strict=True)


async def test_a_chat_stream_reads_role_text_finish_done() -> None:
    events_, outcomes = await streamed(ChatReply("chatcmpl-1", 5, "m"), delta("Par"), delta("is"), LAST)
    *chunks, done = events_
    assert [(chunk["choices"][0]["delta"], chunk["choices"][0]["finish_reason"]) for chunk in chunks] == [
        ({"role": "assistant", "content": ""}, None),
        ({"content": "Par"}, None),
        ({"content": "is"}, None),
        ({}, "length"),
    ]
    assert done == "[DONE]"
    assert outcomes == [OUTCOME]
    for chunk in chunks:
        assert "usage" not in chunk
        ChatCompletionChunk.model_validate(chunk, strict=True)


async def test_usage_on_request_is_null_until_a_last_chunk_without_choices() -> None:
    *chunks, last, done = (await streamed(ChatReply("c", 5, "m", include_usage=True), delta("a"), LAST))[0]
    assert all(chunk["usage"] is None for chunk in chunks)
    assert (last["choices"], last["usage"], done) == ([], USAGE, "[DONE]")
    ChatCompletionChunk.model_validate(last, strict=True)


async def test_a_completion_stream_has_no_role() -> None:
    *chunks, usage, done = (await streamed(CompletionReply("c", 5, "m", include_usage=True), delta("a"), LAST))[0]
    assert [(chunk["choices"][0]["text"], chunk["choices"][0]["finish_reason"]) for chunk in chunks] == [
        ("a", None),
        ("", "length"),
    ]
    assert (usage["choices"], usage["usage"], done) == ([], USAGE, "[DONE]")
    # Their type allows no null reason, their API sends it on all chunks but the last.
    for chunk in (chunks[-1], usage):
        Completion.model_validate(chunk, strict=True)


async def test_text_in_the_last_delta_comes_before_the_finish() -> None:
    last = Delta("", "!", (1,), finish_reason="stop", usage=Usage(1, 1))
    chunks = (await streamed(CompletionReply("c", 5, "m"), last))[0]
    assert [chunk["choices"][0]["text"] for chunk in chunks[:-1]] == ["!", ""]


async def test_a_delta_that_holds_its_text_back_makes_no_event_but_opens_the_answer() -> None:
    reply = ChatReply("c", 5, "m")
    pieces = [piece async for piece in events(source(delta(""), delta(""), LAST), 1, reply, lambda _outcome: None)]
    assert [piece.count(b"data: ") for piece in pieces] == [1, 2]


async def test_what_belongs_to_one_delta_leaves_in_one_piece() -> None:
    reply = ChatReply("c", 5, "m", include_usage=True)
    pieces = [piece async for piece in events(source(delta("a"), LAST), 1, reply, lambda _outcome: None)]
    assert [piece.count(b"data: ") for piece in pieces] == [2, 3]


async def test_collecting_joins_the_texts() -> None:
    choices, outcome = await collect(source(delta("Par"), delta("is"), LAST), 1)
    assert (choices, outcome) == ((Whole(Said("Paris", (1, 1, 3)), "length"),), OUTCOME)


@pytest.mark.parametrize("make", [ChatReply, CompletionReply])
async def test_tokens_on_request_come_with_the_text_and_also_where_it_is_held_back(make: type[ChatReply]) -> None:
    *chunks, _done = (await streamed(make("c", 5, "m", token_ids=True), delta(""), delta("a"), LAST))[0]
    choice = Whole(Said("a", (1, 1, 3)), "stop")
    body = json.loads(make("c", 5, "m", token_ids=True).whole([choice], UsageBody(7, 3, 10)))

    shown = [chunk["choices"][0].get("token_ids") for chunk in chunks]
    assert [tokens for tokens in shown if tokens is not None] == [[1], [1], [3]]
    assert body["choices"][0]["token_ids"] == [1, 1, 3]


async def test_nobody_gets_tokens_without_asking() -> None:
    chunks = (await streamed(ChatReply("c", 5, "m"), delta("a"), LAST))[0]
    assert all("token_ids" not in chunk["choices"][0] for chunk in chunks[:-1])


@pytest.mark.parametrize("deltas", [(), (delta("a"),)])
async def test_an_answer_without_an_end_is_our_bug(deltas: tuple[Delta, ...]) -> None:
    with pytest.raises(UnfinishedError):
        await collect(source(*deltas), 1)
    with pytest.raises(UnfinishedError):
        await streamed(ChatReply("c", 5, "m"), *deltas)


HELLO = TokenLogprobs(Candidate(b"Hello", -0.5), (Candidate(b"Hello", -0.5), Candidate(b"Hi", -1.5)))
# The two halves of an é, the second of which the model found impossible.
HALF = TokenLogprobs(Candidate(b"\xc3", -0.25), (Candidate(b" and", -0.125),))
REST = TokenLogprobs(Candidate(b"\xa9", -math.inf), ())
SCORED = (
    Delta("", "Hello", (1,), logprobs=(HELLO,)),
    Delta("", "", (2,), logprobs=(HALF,)),
    Delta("", "é", (3,), logprobs=(REST,)),
    LAST,
)


async def test_log_probabilities_of_a_chat_come_with_their_tokens_and_add_up_to_the_whole_answers() -> None:
    reply = ChatReply("c", 5, "m", logprobs=True)
    _opening, *chunks, finish, _done = (await streamed(reply, *SCORED))[0]
    whole = json.loads(reply.whole((await collect(source(*SCORED), 1))[0], OUTCOME.usage))

    contents = [chunk["choices"][0]["logprobs"]["content"] for chunk in chunks]
    assert [chunk["choices"][0]["delta"]["content"] for chunk in chunks] == ["Hello", "", "é"]
    assert contents == [
        [
            {
                "token": "Hello",
                "logprob": -0.5,
                "bytes": [72, 101, 108, 108, 111],
                "top_logprobs": [
                    {"token": "Hello", "logprob": -0.5, "bytes": [72, 101, 108, 108, 111]},
                    {"token": "Hi", "logprob": -1.5, "bytes": [72, 105]},
                ],
            }
        ],
        [
            {
                "token": "\ufffd",
                "logprob": -0.25,
                "bytes": [0xC3],
                "top_logprobs": [{"token": " and", "logprob": -0.125, "bytes": [32, 97, 110, 100]}],
            }
        ],
        [{"token": "\ufffd", "logprob": -9999.0, "bytes": [0xA9], "top_logprobs": []}],
    ]
    assert finish["choices"][0]["logprobs"] is None
    assert whole["choices"][0]["logprobs"] == {"content": [row for rows in contents for row in rows], "refusal": None}
    ChatCompletion.model_validate(whole, strict=True)
    for chunk in chunks:
        ChatCompletionChunk.model_validate(chunk, strict=True)


async def test_log_probabilities_of_a_completion_name_each_token_and_where_it_begins() -> None:
    reply = CompletionReply("c", 5, "m", logprobs=True)
    *chunks, _finish, _done = (await streamed(reply, *SCORED))[0]
    whole = json.loads(reply.whole((await collect(source(*SCORED), 1))[0], OUTCOME.usage))

    assert whole["choices"][0]["logprobs"] == {
        "tokens": ["Hello", "bytes:\\xc3", "bytes:\\xa9"],
        "token_logprobs": [-0.5, -0.25, -9999.0],
        "top_logprobs": [
            {"Hello": -0.5, "Hi": -1.5},
            {" and": -0.125, "bytes:\\xc3": -0.25},
            {"bytes:\\xa9": -9999.0},
        ],
        "text_offset": [0, 5, 5],
    }
    assert [chunk["choices"][0]["logprobs"]["text_offset"] for chunk in chunks] == [[0], [5], [5]]
    Completion.model_validate(whole, strict=True)


async def test_nobody_gets_log_probabilities_without_asking() -> None:
    chunks = (await streamed(ChatReply("c", 5, "m"), SCORED[0], LAST))[0]
    assert [chunk["choices"][0]["logprobs"] for chunk in chunks[:-1]] == [None, None, None]


def ends(reason: FinishReason, **usage: int) -> Delta:
    return Delta("", "", (9,), finish_reason=reason, usage=Usage(prompt_tokens=7, **usage))


async def test_choices_are_told_apart_opened_and_ended_each_and_count_their_prompt_once() -> None:
    reply = ChatReply("c", 5, "m", include_usage=True)
    deltas = (
        (1, delta("B")),
        (0, delta("A")),
        (1, ends("stop", completion_tokens=2, cached_tokens=7)),
        (0, ends("length", completion_tokens=3, cached_tokens=1)),
    )
    *chunks, usage, done = (await streamed(reply, *deltas, n=2))[0]

    rows = [(each["index"], each["delta"], each["finish_reason"]) for each in (c["choices"][0] for c in chunks)]
    assert rows == [
        (1, {"role": "assistant", "content": ""}, None),
        (1, {"content": "B"}, None),
        (0, {"role": "assistant", "content": ""}, None),
        (0, {"content": "A"}, None),
        (1, {}, "stop"),
        (0, {}, "length"),
    ]
    assert usage["usage"] == {
        "prompt_tokens": 7,
        "completion_tokens": 5,
        "total_tokens": 12,
        "prompt_tokens_details": {"cached_tokens": 1},
    }
    assert done == "[DONE]"


@pytest.mark.parametrize("make", [ChatReply, CompletionReply])
async def test_whole_choices_stand_in_order(make: type[ChatReply]) -> None:
    deltas = ((1, delta("B")), (0, delta("A")), (1, ends("stop", completion_tokens=2)), (0, LAST))
    choices, outcome = await collect(source(*deltas), 2)
    rows = json.loads(make("c", 5, "m").whole(choices, outcome.usage))["choices"]

    said = [row["text"] if "text" in row else row["message"]["content"] for row in rows]
    assert [(row["index"], row["finish_reason"]) for row in rows] == [(0, "length"), (1, "stop")]
    assert (said, outcome.finish_reason, outcome.usage.completion_tokens) == (["A", "B"], "length,stop", 5)
