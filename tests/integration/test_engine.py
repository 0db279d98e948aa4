"""The engine with a real model: what it answers, alone and over workers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest
from meshed_engine import (
    FRANCE,
    GREEDY,
    N_CTX,
    N_SLOTS,
    answer,
    request,
    spec,
    start,
    text,
    token_ids,
    worker,
)

from rpcmesh.engine.client import Engine, EngineRequestError
from rpcmesh.engine.messages import (
    ChatMessage,
    ChatPrompt,
    Delta,
    GenerateRequest,
    LoadedModel,
    Prompt,
    Sampling,
    Score,
    TextPrompt,
    TokenPrompt,
    Usage,
)
from rpcmesh.native_build import Build


@pytest.fixture
async def engine(build: Build, smollm2: Path) -> AsyncIterator[Engine]:
    """A local engine with the model loaded."""
    async with await start(build) as engine:
        await engine.load(spec(smollm2))
        yield engine


async def test_a_loaded_model_says_what_it_is_and_has_answered(build: Build, smollm2: Path) -> None:
    fractions: list[float] = []
    async with await start(build) as engine:
        model = await engine.load(spec(smollm2), fractions.append)
    assert (model.name, model.n_layer, model.n_ctx, model.n_vocab) == ("smollm2", 30, N_CTX, 49152)
    assert model.has_chat_template
    assert model.first_token_ms > 0
    assert [(held.node, held.device, len(held.layers), held.output) for held in model.placement] == [
        (None, "CPU", 30, True)
    ]
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1.0


async def test_two_workers_give_the_local_answer_token_for_token(build: Build, smollm2: Path, engine: Engine) -> None:
    local = await answer(engine, request(max_tokens=48))
    with worker(build, "node-1") as (first, _), worker(build, "node-2") as (second, _):
        async with await start(build) as meshed:
            model = await meshed.load(spec(smollm2, first, second))
            remote = await answer(meshed, request(max_tokens=48))

    assert token_ids(remote) == token_ids(local)
    assert text(remote).startswith(" Paris")
    assert_layers_are_spread(model)


def assert_layers_are_spread(model: LoadedModel) -> None:
    first, second, cpu = model.placement
    assert (first.node, second.node, cpu.node) == ("node-1", "node-2", None)
    assert first.layers
    assert second.layers
    assert first.layers + second.layers == tuple(range(model.n_layer))
    assert (first.output, second.output, cpu.output) == (False, True, False)
    assert cpu.layers == ()
    assert min(first.weight_bytes, second.weight_bytes, cpu.weight_bytes) > 1 << 20


async def test_more_requests_than_slots_are_all_answered_and_never_mixed(engine: Engine) -> None:
    capitals = {
        "France": "Paris",
        "Italy": "Rome",
        "Germany": "Berlin",
        "Japan": "Tokyo",
        "Spain": "Madrid",
        "Greece": "Athens",
    }
    assert len(capitals) > N_SLOTS

    answers = await asyncio.gather(
        *(
            answer(engine, request(TextPrompt(f"The capital of {country} is"), name=country, max_tokens=8 + index))
            for index, country in enumerate(capitals)
        )
    )

    for index, (deltas, (country, capital)) in enumerate(zip(answers, capitals.items(), strict=True)):
        assert {delta.id for delta in deltas} == {country}
        assert capital in text(deltas)
        assert deltas[-1].finish_reason == "length"
        assert len(token_ids(deltas)) == 8 + index
        assert all(delta.finish_reason is None and delta.usage is None for delta in deltas[:-1])


async def test_a_chat_ends_by_itself(engine: Engine) -> None:
    chat = ChatPrompt((ChatMessage("user", "Say hello."),))
    deltas = await answer(engine, request(chat, max_tokens=None))
    usage = deltas[-1].usage
    assert deltas[-1].finish_reason == "stop"
    assert usage is not None
    assert usage.completion_tokens == len(token_ids(deltas)) < N_CTX - usage.prompt_tokens
    assert "<|im_end|>" not in text(deltas)
    assert text(deltas).strip()


async def test_without_max_tokens_the_context_is_the_end(engine: Engine) -> None:
    deltas = await answer(engine, request(TokenPrompt((504,) * (N_CTX - 20)), max_tokens=None, endless=True))
    assert deltas[-1].finish_reason == "length"
    assert deltas[-1].usage == Usage(prompt_tokens=N_CTX - 20, completion_tokens=20)


async def test_a_cancelled_request_frees_its_slot(engine: Engine) -> None:
    endless = [engine.generate(request(name=f"endless-{n}", max_tokens=None, endless=True)) for n in range(N_SLOTS)]
    for generation in endless:
        await anext(generation)
    async with asyncio.timeout(10), asyncio.TaskGroup() as tasks:
        waiting = tasks.create_task(answer(engine, request(name="waiting", max_tokens=4)))
        for _ in range(8):
            await anext(endless[0])
        assert not waiting.done()

        await endless[1].aclose()

    assert text(waiting.result()).startswith(" Paris")
    for generation in endless:
        await generation.aclose()


async def test_a_stop_string_ends_the_text_before_it(engine: Engine) -> None:
    plain = text(await answer(engine, request(name="plain", max_tokens=24)))
    stop = plain[10:16]

    deltas = await answer(
        engine, request(name="stopped", max_tokens=24, sampling=Sampling(temperature=0, stop=(stop,)))
    )

    assert text(deltas) == plain[: plain.index(stop)]
    assert deltas[-1].finish_reason == "stop"
    assert len(token_ids(deltas)) < 24


async def test_a_seed_repeats_an_answer_and_another_does_not(engine: Engine) -> None:
    def seeded(name: str, seed: int | None) -> GenerateRequest:
        return request(
            TextPrompt("Once upon a time"), name=name, max_tokens=24, sampling=Sampling(seed=seed, top_p=0.95)
        )

    once, again, other, unseeded = [
        token_ids(await answer(engine, seeded(name, seed)))
        for name, seed in (("a", 7), ("b", 7), ("c", 8), ("d", None))
    ]
    assert once == again
    assert len({once, other, unseeded}) == 3


@pytest.mark.parametrize(
    "certain",
    [Sampling(top_k=1), Sampling(top_p=0.0), Sampling(min_p=1.0), Sampling(temperature=1e-9)],
    ids=["top_k", "top_p", "min_p", "temperature"],
)
async def test_sampling_from_the_likeliest_token_alone_is_greedy(engine: Engine, certain: Sampling) -> None:
    greedy = await answer(engine, request(name="greedy"))
    sampled = await answer(engine, request(name="sampled", sampling=certain))
    assert token_ids(sampled) == token_ids(greedy)


@pytest.mark.parametrize(
    "penalised",
    [
        Sampling(temperature=0, repeat_penalty=2.0),
        Sampling(temperature=0, frequency_penalty=2.0),
        Sampling(temperature=0, presence_penalty=10.0),
    ],
    ids=["repeat", "frequency", "presence"],
)
async def test_a_penalty_breaks_a_loop(engine: Engine, penalised: Sampling) -> None:
    loop = TextPrompt("red red red red red red red red red red")
    assert " red red" in text(await answer(engine, request(loop, name="looping")))
    assert " red red" not in text(await answer(engine, request(loop, name="penalised", sampling=penalised)))


async def test_emoji_arrive_whole_and_a_resumed_answer_continues_inside_one(engine: Engine) -> None:
    prompt = TextPrompt("🎉🦊🎉🦊🎉🦊🎉🦊🎉🦊🎉🦊")
    whole = await answer(engine, request(prompt, name="whole", max_tokens=16))
    assert "🎉🎉" in text(whole)
    assert "\ufffd" not in "".join(delta.text for delta in whole[:-1])

    sent = next(n for n, delta in enumerate(whole, 1) if delta.text == "")
    asked = GenerateRequest("resumed", prompt, 16, GREEDY, resume_token_ids=token_ids(whole[:sent]))
    rest = await answer(engine, asked)

    assert "\ufffd" not in text(whole[:sent]) + text(rest[:-1])
    assert len(token_ids(rest)) == 16 - sent
    assert rest[-1].usage == Usage(prompt_tokens=36, completion_tokens=16, cached_tokens=36)


async def test_a_resumed_answer_throws_the_dice_on_from_where_they_stood(engine: Engine) -> None:
    sampling = Sampling(temperature=0.7, seed=11)
    asked = GenerateRequest("whole", FRANCE, 12, sampling, ignore_eos=True)
    whole = token_ids(await answer(engine, asked))

    rest = [
        token_ids(
            await answer(
                engine, GenerateRequest(f"from {sent}", FRANCE, 12, sampling, True, resume_token_ids=whole[:sent])
            )
        )
        for sent in (1, 5, 11)
    ]

    assert rest == [whole[sent:] for sent in (1, 5, 11)]


async def test_layers_lie_where_they_were_planned(build: Build, smollm2: Path) -> None:
    with worker(build, "node-1") as (first, _), worker(build, "node-2") as (second, _):
        planned = [msgspec.structs.replace(each, layers=(n,)) for each, n in ((first, 7), (second, 24))]
        async with await start(build) as meshed:
            model = await meshed.load(spec(smollm2, *planned))

    held = [(part.node, part.layers, part.output) for part in model.placement]
    assert held == [("node-1", tuple(range(7)), False), ("node-2", tuple(range(7, 30)), True), (None, (), False)]


async def test_a_resumed_answer_that_fits_no_more_is_refused_and_not_called_finished(engine: Engine) -> None:
    asked = GenerateRequest("r", FRANCE, None, GREEDY, resume_token_ids=(7042,) * N_CTX)
    with pytest.raises(EngineRequestError, match="the context is 512 tokens now, and the answer has 517") as raised:
        await answer(engine, asked)
    assert raised.value.code == "context_length_exceeded"


async def test_the_model_s_own_tokens_are_the_best_and_foreign_ones_are_not(engine: Engine) -> None:
    own = token_ids(await answer(engine, request(FRANCE, name="own", max_tokens=20)))
    foreign = (*own[:3], own[3] + 1, *own[4:])

    margins = await engine.margins(Score("own", FRANCE, own))
    altered = await engine.margins(Score("foreign", FRANCE, foreign))

    assert len(margins) == len(own)
    # Decoding one by one and in one pass differ by rounding.
    assert max(margins) < 0.5
    assert min(margins) >= 0
    assert altered[:3] == margins[:3]
    assert altered[3] > 0.5
    # The cells that it took are free again.
    again = token_ids(await answer(engine, request(FRANCE, name="again", max_tokens=20)))
    assert max(await engine.margins(Score("again", FRANCE, again))) < 0.5


async def test_nothing_is_scored_while_a_request_is_open(engine: Engine) -> None:
    answering = engine.generate(request(FRANCE, name="open", max_tokens=64))
    await anext(answering)

    with pytest.raises(EngineRequestError, match="only while no request is open"):
        await engine.margins(Score("early", FRANCE, (1,)))

    await answering.aclose()


async def test_a_resumed_answer_with_an_unknown_token_fails_alone(engine: Engine) -> None:
    with pytest.raises(EngineRequestError, match="token -1 is not in the vocabulary"):
        await answer(engine, GenerateRequest("r", FRANCE, 8, GREEDY, resume_token_ids=(-1,)))


async def test_a_request_that_was_complete_when_its_engine_died_finishes_at_once(engine: Engine) -> None:
    asked = GenerateRequest("r", FRANCE, 2, GREEDY, resume_token_ids=(7042, 30))
    assert await answer(engine, asked) == [Delta("r", "", (), "length", Usage(5, 2))]


@pytest.mark.parametrize(
    ("sampling", "says"),
    [
        (Sampling(temperature=float("nan")), "temperature nan is not a finite number"),
        (Sampling(presence_penalty=float("inf")), "presence_penalty inf is not a finite number"),
        (Sampling(repeat_penalty=0.0), "repeat_penalty 0.0 is not above 0"),
        (Sampling(stop=("",)), "a stop string is empty"),
    ],
)
async def test_sampling_that_would_harm_the_engine_is_refused(engine: Engine, sampling: Sampling, says: str) -> None:
    with pytest.raises(EngineRequestError, match=says):
        await answer(engine, request(sampling=sampling))


@pytest.mark.parametrize(
    ("prompt", "code", "says"),
    [
        (
            TokenPrompt((504,) * 600),
            "context_length_exceeded",
            "maximum context length is 512 tokens, but the prompt has 600",
        ),
        # Not counted to its end, which takes a gigabyte.
        (TextPrompt("a" * (8 << 20)), "context_length_exceeded", "length is 512 tokens, but the prompt has more"),
        (ChatPrompt((ChatMessage("user", " " * (8 << 20)),)), "context_length_exceeded", "but the prompt has more"),
        (TextPrompt("a" * (1 << 14)), "context_length_exceeded", "but the prompt has 4096"),
        (TextPrompt(""), "invalid_prompt", "the prompt is empty"),
        (TokenPrompt((1, 49152)), "invalid_prompt", "token 49152 is not in the vocabulary of 49152"),
        (ChatPrompt(()), "invalid_prompt", "a chat needs at least one message"),
        (TextPrompt("\ud800"), "invalid_prompt", "not valid Unicode"),
    ],
)
async def test_a_prompt_that_cannot_be_served_fails_alone(engine: Engine, prompt: Prompt, code: str, says: str) -> None:
    with pytest.raises(EngineRequestError, match=says) as raised:
        await answer(engine, request(prompt, name="bad"))
    assert raised.value.code == code
    assert text(await answer(engine, request(name="good", max_tokens=4))).startswith(" Paris")
