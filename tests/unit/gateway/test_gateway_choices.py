"""Several answers side by side: asked for as a family, told apart, and ended together."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import pytest
from scripted_gateway import PARIS, Gateway

from rpcmesh.engine.client import EngineRequestError
from rpcmesh.engine.messages import Delta, GenerateRequest, Sampling, TextPrompt
from rpcmesh.gateway.choices import WAITING_MAX, requests, side_by_side


@dataclass
class Answer:
    """Sends ``deltas``, and then ends, fails or goes on for ever."""

    deltas: tuple[Delta, ...] = ()
    failure: Exception | None = None
    endless: bool = False
    n_sent: int = 0
    closed: asyncio.Event = field(default_factory=asyncio.Event)

    async def stream(self) -> AsyncIterator[Delta]:
        try:
            for delta in self.deltas:
                self.n_sent += 1
                yield delta
            if self.failure is not None:
                raise self.failure
            if self.endless:
                await asyncio.Event().wait()
        finally:
            self.closed.set()


def piece(text: str) -> Delta:
    return Delta("", text, (1,))


@pytest.mark.parametrize(
    ("seed", "seeds"), [(None, [None, None, None]), (5, [5, 6, 7]), (2**63 - 1, [2**63 - 1, 0, 1]), (-1, [-1, 0, 1])]
)
def test_a_family_has_one_prompt_and_names_and_seeds_of_its_own(seed: int | None, seeds: list[int | None]) -> None:
    family = requests(GenerateRequest("a", TextPrompt("x"), sampling=Sampling(seed=seed)), 3)
    assert [each.id for each in family] == ["a", "a.1", "a.2"]
    assert {each.prompt for each in family} == {TextPrompt("x")}
    assert [each.sampling.seed for each in family] == seeds


@pytest.mark.parametrize("n", [1, 2, 16])
async def test_all_deltas_arrive_in_their_answers_order_with_its_number(n: int) -> None:
    answers = [Answer(tuple(piece(f"{place}.{step}") for step in range(5))) for place in range(n)]
    async with side_by_side([each.stream() for each in answers]) as deltas:
        got = [(place, delta.text) async for place, delta in deltas]
    for place in range(n):
        assert [text for number, text in got if number == place] == [f"{place}.{step}" for step in range(5)]


@pytest.mark.parametrize("n_endless", [0, 1, 3])
async def test_one_that_fails_ends_them_all_with_its_error(n_endless: int) -> None:
    failing = Answer((piece("a"),), failure=EngineRequestError("overloaded", "full"))
    others = [Answer(endless=True) for _ in range(n_endless)]
    with pytest.raises(EngineRequestError, match="full"):
        async with side_by_side([each.stream() for each in (*others, failing)]) as deltas:
            [each async for each in deltas]
    assert all(each.closed.is_set() for each in (*others, failing))


async def test_a_reader_that_leaves_closes_them_all() -> None:
    answers = [Answer((piece("a"),), endless=True) for _ in range(3)]

    async def read() -> None:
        async with side_by_side([each.stream() for each in answers]) as deltas:
            async for _ in deltas:
                reading.set()

    reading = asyncio.Event()
    reader = asyncio.ensure_future(read())
    await reading.wait()
    reader.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reader
    assert all(each.closed.is_set() for each in answers)


async def test_what_nobody_reads_does_not_pile_up() -> None:
    many = [Answer(tuple(piece(str(step)) for step in range(1000))) for _ in range(2)]
    async with side_by_side([each.stream() for each in many]) as deltas:
        await anext(deltas)
        for _ in range(1000):  # as often as the answers could have gone on
            await asyncio.sleep(0)
        assert sum(each.n_sent for each in many) <= WAITING_MAX + 1 + len(many)


async def test_the_gateway_asks_for_each_choice_and_answers_with_all(gateway: Gateway) -> None:
    async with gateway.chat(n=3, seed=5) as response:
        body = await response.json()
    assert [choice["index"] for choice in body["choices"]] == [0, 1, 2]
    assert [choice["message"]["content"] for choice in body["choices"]] == ["Paris."] * 3
    assert (body["usage"]["prompt_tokens"], body["usage"]["completion_tokens"]) == (7, 9)
    assert [each.sampling.seed for each in gateway.backend.requests] == [5, 6, 7]
    assert [each.id for each in gateway.backend.requests] == [body["id"], f"{body['id']}.1", f"{body['id']}.2"]


async def test_a_refused_family_is_one_error(gateway: Gateway) -> None:
    gateway.backend.script = (EngineRequestError("invalid_grammar", "the grammar has no rule 'root'"),)
    async with gateway.chat(n=2, grammar="x ::= y", stream=True) as response:
        body = await response.json()
    assert (response.status, body["error"]["param"], body["error"]["code"]) == (400, "grammar", "invalid_grammar")


async def test_a_family_that_fails_halfway_ends_with_one_error_event(gateway: Gateway) -> None:
    first_is_out = asyncio.Event()
    gateway.backend.script = (PARIS[0], first_is_out, EngineRequestError("engine_error", "no"))
    async with gateway.chat(n=2, stream=True) as response:
        first_is_out.set()
        lines = (await response.text()).split("\n\n")
    assert response.status == 200
    assert [line.startswith('data: {"error"') for line in lines if line].count(True) == 1
    assert "[DONE]" not in lines[-2]
