"""Answers have the shapes of OpenAI's own client types, whole and in pieces."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from openai.types import Completion
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from rpcmesh.engine.messages import Delta, Usage
from rpcmesh.gateway.chat import ChatReply
from rpcmesh.gateway.completions import CompletionReply
from rpcmesh.gateway.reply import Outcome, Reply, UnfinishedError, UsageBody, Whole, collect, events

LAST = Delta("", "", (3,), finish_reason="length", usage=Usage(prompt_tokens=7, completion_tokens=3))
USAGE = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}
OUTCOME = Outcome("length", UsageBody(7, 3, 10))


def delta(text: str) -> Delta:
    return Delta("", text, (1,))


async def source(*deltas: Delta) -> AsyncIterator[Delta]:
    for each in deltas:
        yield each


async def streamed(reply: Reply, *deltas: Delta) -> tuple[list[Any], list[Outcome]]:
    """The JSON of each event (``[DONE]`` as text), and what ``on_end`` was told."""
    outcomes: list[Outcome] = []
    raw = b"".join([piece async for piece in events(source(*deltas), reply, outcomes.append)])
    lines = [line.removeprefix(b"data: ") for line in raw.split(b"\n\n") if line]
    return [line.decode() if line == b"[DONE]" else json.loads(line) for line in lines], outcomes


def test_a_whole_chat_answer() -> None:
    body = json.loads(ChatReply("chatcmpl-1", 5, "m").whole("Paris.", (8, 9), "stop", UsageBody(7, 3, 10)))
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
    body = json.loads(CompletionReply("cmpl-1", 5, "m").whole("Paris.", (8, 9), "length", UsageBody(7, 3, 10)))
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
    pieces = [piece async for piece in events(source(delta(""), delta(""), LAST), reply, lambda _outcome: None)]
    assert [piece.count(b"data: ") for piece in pieces] == [1, 2]


async def test_what_belongs_to_one_delta_leaves_in_one_piece() -> None:
    reply = ChatReply("c", 5, "m", include_usage=True)
    pieces = [piece async for piece in events(source(delta("a"), LAST), reply, lambda _outcome: None)]
    assert [piece.count(b"data: ") for piece in pieces] == [2, 3]


async def test_collecting_joins_the_texts() -> None:
    assert await collect(source(delta("Par"), delta("is"), LAST)) == Whole("Paris", (1, 1, 3), OUTCOME)


@pytest.mark.parametrize("make", [ChatReply, CompletionReply])
async def test_tokens_on_request_come_with_the_text_and_also_where_it_is_held_back(make: type[ChatReply]) -> None:
    *chunks, _done = (await streamed(make("c", 5, "m", token_ids=True), delta(""), delta("a"), LAST))[0]
    body = json.loads(make("c", 5, "m", token_ids=True).whole("a", (1, 1, 3), "stop", UsageBody(7, 3, 10)))

    shown = [chunk["choices"][0].get("token_ids") for chunk in chunks]
    assert [tokens for tokens in shown if tokens is not None] == [[1], [1], [3]]
    assert body["choices"][0]["token_ids"] == [1, 1, 3]


async def test_nobody_gets_tokens_without_asking() -> None:
    chunks = (await streamed(ChatReply("c", 5, "m"), delta("a"), LAST))[0]
    assert all("token_ids" not in chunk["choices"][0] for chunk in chunks[:-1])


@pytest.mark.parametrize("deltas", [(), (delta("a"),)])
async def test_an_answer_without_an_end_is_our_bug(deltas: tuple[Delta, ...]) -> None:
    with pytest.raises(UnfinishedError):
        await collect(source(*deltas))
    with pytest.raises(UnfinishedError):
        await streamed(ChatReply("c", 5, "m"), *deltas)
