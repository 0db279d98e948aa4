"""Answers held to a form, biased or scored, by a real model: what comes out, and that a bad wish fails alone."""

from __future__ import annotations

import json
import math
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import pytest_asyncio
from meshed_engine import FRANCE, GREEDY, answer, request, spec, start, text, token_ids

from rpcmesh.engine.client import Engine, EngineRequestError
from rpcmesh.engine.gbnf import parse_gbnf
from rpcmesh.engine.grammar import Matcher
from rpcmesh.engine.json_schema import schema_to_gbnf
from rpcmesh.engine.messages import (
    ChatMessage,
    ChatPrompt,
    Constraint,
    Delta,
    GbnfGrammar,
    GenerateRequest,
    JsonSchema,
    Sampling,
    TokenLogprobs,
)
from rpcmesh.native_build import Build

pytestmark = pytest.mark.asyncio(loop_scope="module")

PERSON = ChatPrompt((ChatMessage("user", "Describe a person as JSON, with name, age and hobbies."),))
SCHEMAS: dict[str, Any] = {
    "person": {
        "type": "object",
        "properties": {
            "name": {"type": "string", "maxLength": 20},
            "age": {"type": "integer"},
            "hobbies": {"type": "array", "items": {"type": "string", "maxLength": 12}, "maxItems": 3},
        },
        "required": ["name", "age", "hobbies"],
        "additionalProperties": False,
    },
    "choice": {"enum": ["red", "green", 'a "quoted" one', 7, None]},
    "numbers": {"type": "array", "items": {"type": "number"}, "minItems": 2, "maxItems": 4},
    "date": {"type": "object", "properties": {"when": {"format": "date", "type": "string"}}, "required": ["when"]},
    "either": {"anyOf": [{"type": "boolean"}, {"type": "array", "items": {"const": "x"}, "maxItems": 3}]},
}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def engine(build: Build, smollm2: Path) -> AsyncIterator[Engine]:
    async with await start(build) as engine:
        await engine.load(spec(smollm2))
        yield engine


def asked(name: str, constraint: Constraint | None = None, **changes: Any) -> GenerateRequest:
    return GenerateRequest(name, PERSON, 200, GREEDY, constraint=constraint, **changes)


@pytest.mark.parametrize("sampling", [GREEDY, Sampling(seed=1), Sampling(temperature=2, seed=2)], ids=["0", "1", "2"])
@pytest.mark.parametrize("schema", SCHEMAS.values(), ids=SCHEMAS)
async def test_an_answer_under_a_schema_is_json_that_it_describes(
    engine: Engine, schema: Any, sampling: Sampling, request: pytest.FixtureRequest
) -> None:
    wanted = GenerateRequest(
        request.node.name, PERSON, 250, sampling, constraint=JsonSchema(msgspec.json.encode(schema).decode())
    )
    deltas = await answer(engine, wanted)

    assert deltas[-1].finish_reason == "stop"
    json.loads(text(deltas))
    matcher = Matcher(parse_gbnf(schema_to_gbnf(json.dumps(schema))))
    matcher.accept(text(deltas).encode())
    assert matcher.may_end


async def test_an_answer_under_a_grammar_is_its_text_and_ends_with_it(engine: Engine) -> None:
    moods = GbnfGrammar('root ::= "Mood: " mood "!"\nmood ::= "glad" | "sad" | "läuft 👋"')
    said = set()
    for seed in range(6):
        sampling = Sampling(temperature=2, seed=seed)
        said.add(text(await answer(engine, GenerateRequest(f"mood {seed}", PERSON, 50, sampling, constraint=moods))))
    assert said <= {"Mood: glad!", "Mood: sad!", "Mood: läuft 👋!"}
    assert len(said) > 1


async def test_a_grammar_that_the_model_likes_changes_nothing(engine: Engine) -> None:
    free = await answer(engine, request(name="free"))
    held = await answer(engine, msgspec.structs.replace(request(name="held"), constraint=GbnfGrammar("root ::= .*")))
    assert token_ids(held) == token_ids(free)


@pytest.mark.parametrize("sampling", [GREEDY, Sampling(seed=5)], ids=["greedy", "seeded"])
async def test_a_resumed_answer_keeps_to_its_grammar_and_goes_on_as_it_would_have(
    engine: Engine, sampling: Sampling
) -> None:
    schema = JsonSchema(json.dumps(SCHEMAS["person"]))
    name = f"whole {sampling.temperature}"
    whole = await answer(engine, GenerateRequest(name, PERSON, 200, sampling, constraint=schema))
    tokens = token_ids(whole)
    assert whole[-1].finish_reason == "stop"

    for sent in (1, 7, len(tokens) - 1):
        rest = await answer(
            engine,
            GenerateRequest(f"{name} {sent}", PERSON, 200, sampling, False, tokens[:sent], constraint=schema),
        )
        assert json.loads(text(whole[:sent]) + text(rest)) == json.loads(text(whole))
        assert tokens[:sent] + token_ids(rest) == tokens


@pytest.mark.parametrize(
    ("constraint", "says"),
    [
        (GbnfGrammar(""), "no rule 'root'"),
        (GbnfGrammar("root ::= y"), "does not define it"),
        (GbnfGrammar('root ::= root "a"'), "begins with itself"),
        (GbnfGrammar("root ::= " + "(" * 60_000), "groups in each other"),
        (GbnfGrammar('root ::= "a"{0,100000}'), "exceeds 2000"),
        (GbnfGrammar("x" * 100_000), "at most 65536"),
        (JsonSchema("{"), "not valid JSON"),
        (JsonSchema('{"type": "integer", "minimum": 3}'), "'minimum'"),
        (JsonSchema('{"items":' * 5_000 + "{}" + "}" * 5_000), "nested too deeply"),
        # Found out only while it is followed.
        (GbnfGrammar('root ::= "-" root "x" | "-" root "y" | "-"'), "too ambiguous"),
    ],
    ids=range(10),
)
async def test_a_bad_grammar_fails_alone(engine: Engine, constraint: Constraint, says: str) -> None:
    other = engine.generate(request(name=f"other {says}", max_tokens=60, endless=True))
    await anext(other)

    with pytest.raises(EngineRequestError, match=says) as raised:
        await answer(engine, asked(f"bad {says}", constraint))

    assert raised.value.code == "invalid_grammar"
    assert len([delta async for delta in other]) == 59


async def test_a_grammar_and_a_bias_that_leave_nothing_are_told(engine: Engine) -> None:
    yes = (await answer(engine, asked("yes", GbnfGrammar('root ::= "Z"'))))[0].token_ids[0]
    forbidden = Sampling(temperature=0, logit_bias=((yes, -math.inf),))
    with pytest.raises(EngineRequestError, match="allows no token") as raised:
        await answer(engine, GenerateRequest("no", PERSON, 9, forbidden, constraint=GbnfGrammar('root ::= "Z"')))
    assert raised.value.code == "invalid_grammar"


async def test_a_bias_forbids_a_token_or_makes_it_certain(engine: Engine) -> None:
    first, second = token_ids(await answer(engine, request(name="plain", max_tokens=2)))
    forbid = Sampling(temperature=0, logit_bias=((first, -math.inf),))
    force = Sampling(temperature=0, logit_bias=((second, 100.0),))

    assert first not in token_ids(await answer(engine, request(name="forbidden", max_tokens=8, sampling=forbid)))
    assert set(token_ids(await answer(engine, request(name="forced", max_tokens=4, sampling=force)))) == {second}


@pytest.mark.parametrize("bias", [(49152, 1.0), (-1, 1.0), (5, math.nan), (5, math.inf)])
async def test_a_bias_that_cannot_be_is_refused(engine: Engine, bias: tuple[int, float]) -> None:
    with pytest.raises(EngineRequestError) as raised:
        await answer(engine, request(name=f"bias {bias}", sampling=Sampling(logit_bias=(bias,))))
    assert raised.value.code == "invalid_logit_bias"


def scores(deltas: list[Delta]) -> list[TokenLogprobs]:
    return [each for delta in deltas for each in delta.logprobs]


async def test_each_token_of_text_has_its_log_probability_with_it(engine: Engine) -> None:
    deltas = await answer(engine, msgspec.structs.replace(asked("scored"), top_logprobs=20, max_tokens=20))
    found = scores(deltas)

    assert [len(delta.logprobs) for delta in deltas] == [1] * len(deltas)
    assert b"".join(each.sampled.piece for each in found).decode() == text(deltas)
    for each in found:
        best = [one.logprob for one in each.best]
        assert len(best) == 20
        assert best == sorted(best, reverse=True)
        assert sum(map(math.exp, best)) <= 1.0001
        # Greedy: the sampled one is the best one.
        assert each.sampled == each.best[0]


async def test_log_probabilities_are_the_model_s_whatever_the_sampling(engine: Engine) -> None:
    plain = await answer(engine, msgspec.structs.replace(request(name="plain scores", max_tokens=1), top_logprobs=5))
    biased = Sampling(temperature=0.1, repeat_penalty=1.9, logit_bias=((1000, 100.0),))
    forced = await answer(
        engine, msgspec.structs.replace(request(name="biased scores", max_tokens=1, sampling=biased), top_logprobs=5)
    )
    assert token_ids(forced) == (1000,)
    assert scores(forced)[0].best == scores(plain)[0].best
    assert scores(forced)[0].sampled.logprob < scores(plain)[0].best[-1].logprob


async def test_a_resumed_answer_tells_the_log_probabilities_of_new_tokens_only(engine: Engine) -> None:
    whole = await answer(engine, msgspec.structs.replace(request(name="whole scores"), top_logprobs=2))
    rest = await answer(
        engine,
        msgspec.structs.replace(request(name="rest scores"), top_logprobs=2, resume_token_ids=token_ids(whole[:5])),
    )
    assert [each.sampled.piece for each in scores(rest)] == [each.sampled.piece for each in scores(whole[5:])]
    assert len(scores(rest)) == 11


async def test_an_end_of_generation_token_has_no_log_probability(engine: Engine) -> None:
    held = asked("ended", GbnfGrammar('root ::= "yes"'), top_logprobs=0)
    deltas = await answer(engine, held)
    assert deltas[-1].finish_reason == "stop"
    assert b"".join(each.sampled.piece for each in scores(deltas)) == b"yes"
    assert deltas[-1].logprobs == ()


async def test_nobody_is_told_log_probabilities_without_asking(engine: Engine) -> None:
    assert scores(await answer(engine, request(FRANCE, name="unscored", max_tokens=3))) == []
