"""Prompts that begin alike: what is not prefilled again, and that the answers are the model's own all the same."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from meshed_engine import FRANCE, GREEDY, N_SLOTS, answer, request, spec, start, text, token_ids
from recordings import models

from rpcmesh.engine.client import Engine
from rpcmesh.engine.messages import (
    ChatMessage,
    ChatPrompt,
    Delta,
    GenerateRequest,
    LoadSpec,
    Prompt,
    Score,
    TextPrompt,
    TokenPrompt,
    Usage,
)
from rpcmesh.engine.reference import MARGIN_MAX
from rpcmesh.native_build import Build

RULES = " ".join(f"Rule {number}: never say the word number {number}." for number in range(1, 21))


@pytest.fixture
async def engine(build: Build, smollm2: Path) -> AsyncIterator[Engine]:
    """A local engine with the model loaded."""
    async with await start(build) as engine:
        await engine.load(spec(smollm2))
        yield engine


def usage(deltas: list[Delta]) -> Usage:
    last = deltas[-1].usage
    assert last is not None
    return last


async def worst_margin(engine: Engine, prompt: Prompt, deltas: list[Delta]) -> float:
    return max(await engine.margins(Score(f"check {deltas[0].id}", prompt, token_ids(deltas))))


async def test_a_prompt_asked_again_is_not_prefilled_again(engine: Engine) -> None:
    prompt = TextPrompt(RULES + " The capital of France is")
    first = await answer(engine, request(prompt, name="first"))
    again = await answer(engine, request(prompt, name="again"))

    assert usage(first).cached_tokens == 0
    assert usage(again).prompt_tokens > 200
    assert usage(again).cached_tokens == usage(again).prompt_tokens - 1
    assert await worst_margin(engine, prompt, again) < MARGIN_MAX


async def test_a_chat_prefills_only_what_is_new(engine: Engine) -> None:
    turns: tuple[ChatMessage, ...] = (ChatMessage("system", RULES), ChatMessage("user", "Name a colour."))
    first = await answer(engine, request(ChatPrompt(turns), name="turn 1", max_tokens=8))
    turns += (ChatMessage("assistant", text(first)), ChatMessage("user", "Another one."))
    second = await answer(engine, request(ChatPrompt(turns), name="turn 2", max_tokens=8))

    # The prompt, and the answer but for its last token, which was sampled and not decoded.
    assert usage(second).cached_tokens >= usage(first).prompt_tokens + usage(first).completion_tokens - 2
    assert usage(second).prompt_tokens - usage(second).cached_tokens < 30
    assert await worst_margin(engine, ChatPrompt(turns), second) < MARGIN_MAX


async def test_many_who_ask_one_prompt_at_once_prefill_it_once(engine: Engine) -> None:
    prompt = TextPrompt(RULES + " The capital of France is")
    answers = await asyncio.gather(*(answer(engine, request(prompt, name=f"r{n}")) for n in range(N_SLOTS)))

    n_prompt = usage(answers[0]).prompt_tokens
    assert sorted(usage(deltas).cached_tokens for deltas in answers) == [0] + [n_prompt - 1] * (N_SLOTS - 1)
    assert max([await worst_margin(engine, prompt, deltas) for deltas in answers]) < MARGIN_MAX


async def test_sequences_that_share_cells_end_apart(engine: Engine) -> None:
    """Each goes its own way behind the same beginning, while the one whose cells they share runs and afterwards."""
    prompts = [TextPrompt(f"{RULES} The capital of {country} is") for country in ("France", "Italy", "Japan", "Egypt")]
    owner = engine.generate(request(prompts[0], name="owner", max_tokens=None, endless=True))
    await anext(owner)

    async def ask(number: int) -> list[Delta]:
        return await answer(engine, request(prompts[number], name=f"r{number}", max_tokens=8 * number))

    asking = [asyncio.ensure_future(ask(number)) for number in (1, 2, 3)]
    await asking[0]
    await owner.aclose()
    answers = await asyncio.gather(*asking)

    assert all(usage(deltas).cached_tokens > 200 for deltas in answers)
    for number, deltas in enumerate(answers, 1):
        assert await worst_margin(engine, prompts[number], deltas) < MARGIN_MAX


async def test_a_resumed_answer_finds_what_its_beginning_left(engine: Engine) -> None:
    whole = await answer(engine, request(name="whole", max_tokens=12))
    resumed = GenerateRequest("rest", FRANCE, 12, GREEDY, resume_token_ids=token_ids(whole[:6]))
    rest = await answer(engine, resumed)

    assert token_ids(rest) == token_ids(whole[6:])
    # Of the prompt's tokens; those of the answer are not counted, though they were there too.
    assert usage(rest) == Usage(prompt_tokens=5, completion_tokens=12, cached_tokens=5)


# In the last three a window of attention lets go of cells behind our back.
@pytest.mark.parametrize("name", ["llama", "gemma2", "gemma3", "gpt-oss"])
async def test_every_kind_of_cache_answers_as_if_nothing_had_been_reused(
    name: str, build: Build, tmp_path: Path
) -> None:
    model = models.BY_NAME[name].write(tmp_path, words=True)
    beginning = tuple(3 + number * 7 % 120 for number in range(150))
    prompts = [
        TokenPrompt((*beginning[:n_common], *(n_common % 100 + 3,) * 3)) for n_common in (150, 20, 150, 90, 149, 5)
    ]
    async with await start(build) as engine:
        await engine.load(tiny(name, model))
        # Two at a time, more cells in all than there are.
        answers = []
        for pair in (0, 2, 4):
            asked = [request(prompts[n], name=f"r{n}", max_tokens=60, endless=True) for n in (pair, pair + 1)]
            answers += await asyncio.gather(*(answer(engine, each) for each in asked))
    async with await start(build) as reference:
        await reference.load(tiny(name, model))
        margins = [
            await worst_margin(reference, prompt, deltas) for prompt, deltas in zip(prompts, answers, strict=True)
        ]

    assert max(margins) < MARGIN_MAX
    assert any(usage(deltas).cached_tokens > 0 for deltas in answers)


@pytest.mark.parametrize("name", ["mamba", "mamba2", "rwkv7", "granitehybrid", "lfm2"])
async def test_a_state_that_cannot_be_cut_is_never_reused(name: str, build: Build, tmp_path: Path) -> None:
    model = models.BY_NAME[name].write(tmp_path, words=True)
    prompts = [TokenPrompt((*range(3, 60), last)) for last in (3, 4, 3)]
    async with await start(build) as engine:
        await engine.load(tiny(name, model))
        answers = [
            await answer(engine, request(prompt, name=f"r{n}", max_tokens=20, endless=True))
            for n, prompt in enumerate(prompts)
        ]

    assert [usage(deltas).cached_tokens for deltas in answers] == [0, 0, 0]
    assert token_ids(answers[2]) == token_ids(answers[0])


def tiny(name: str, model: Path) -> LoadSpec:
    return LoadSpec(name, str(model), n_ctx=256, n_seq_max=2, n_threads=1)
