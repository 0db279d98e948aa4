"""The queue before the engine, with a backend whose answers end when they are told to: waiting, leaving, being cut."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rpcmesh.engine.messages import Delta, GenerateRequest, LoadedModel, Sampling, TextPrompt, Usage
from rpcmesh.gateway.admission import Limits
from rpcmesh.gateway.errors import ApiError
from rpcmesh.gateway.request_queue import AHEAD, Claim, Figures, RequestQueue

ANN, BOB = Claim("ann"), Claim("bob")
SOON_S = 0.01


@dataclass
class Engine:
    """Each answer is one token, then a wait for its event, then its end."""

    n_slots: int = 1
    awaits: tuple[str, ...] = ("tiny",)
    asked: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    ends: defaultdict[str, asyncio.Event] = field(default_factory=lambda: defaultdict(asyncio.Event))

    def models(self) -> tuple[LoadedModel, ...]:
        return ()

    def not_ready_reason(self) -> str | None:
        return None if self.n_slots else "loading"

    def slots(self) -> int:
        return self.n_slots

    def awaited(self) -> tuple[str, ...]:
        return self.awaits

    async def generate(self, model: str, request: GenerateRequest) -> AsyncIterator[Delta]:
        self.asked.append(request.id)
        assert len(self.asked) - len(self.left) <= self.n_slots + AHEAD, "more are in the engine than it has places for"
        try:
            yield Delta(request.id, "once ", (1,))
            await self.ends[request.id].wait()
            yield Delta(request.id, "upon", (2,), "stop", Usage(1, 2))
        finally:
            self.left.append(request.id)


class Clients:
    """Requests ``a``, ``b`` … of one test, each a task that reads its whole answer."""

    def __init__(self, engine: Engine, limits: Limits = Limits(), engine_wait_s: float = 60.0) -> None:  # noqa: B008
        self.engine = engine
        self.queue = RequestQueue(engine, limits, engine_wait_s=engine_wait_s)
        self.tasks: dict[str, asyncio.Task[str]] = {}

    async def ask(self, name: str, claim: Claim = ANN) -> asyncio.Task[str]:
        self.tasks[name] = asyncio.ensure_future(self._read(name, claim))
        await settled()
        return self.tasks[name]

    async def _read(self, name: str, claim: Claim) -> str:
        request = GenerateRequest(name, TextPrompt("hi"), max_tokens=2, sampling=Sampling())
        return "".join([delta.text async for delta in self.queue.generate("tiny", request, claim)])

    async def end(self, *names: str) -> None:
        for name in names:
            self.engine.ends[name].set()
        await settled()

    async def leave(self, name: str) -> None:
        self.tasks[name].cancel()
        await settled()

    async def refusal(self, name: str) -> tuple[int, str | None]:
        with pytest.raises(ApiError) as caught:
            await asyncio.wait_for(self.tasks[name], timeout=5)
        return caught.value.status, caught.value.code


async def settled() -> None:
    """Until every task has gone as far as it can without a timer."""
    for _ in range(20):
        await asyncio.sleep(0)


async def filled(n_slots: int = 1, limits: Limits = Limits(), engine_wait_s: float = 60.0) -> Clients:  # noqa: B008
    """Ann has all places, ``r0`` and so on."""
    clients = Clients(Engine(n_slots), limits, engine_wait_s)
    for number in range(n_slots + AHEAD):
        await clients.ask(f"r{number}")
    return clients


def a_while(seconds: float = SOON_S) -> float:
    return asyncio.get_running_loop().time() + seconds


async def test_one_more_than_decode_is_in_the_engine_and_the_others_wait() -> None:
    clients = await filled(n_slots=2)
    await clients.ask("x")

    assert clients.engine.asked == ["r0", "r1", "r2"]
    assert clients.queue.figures() == Figures(2, 2, dict.fromkeys(clients.queue.figures().refused, 0))


async def test_the_next_one_starts_when_one_ends() -> None:
    clients = await filled()
    waiting = await clients.ask("x")
    await clients.ask("y")

    await clients.end("r0", "x")

    assert await clients.tasks["r0"] == "once upon"
    assert await waiting == "once upon"
    assert clients.engine.asked == ["r0", "r1", "x", "y"]


async def test_priority_then_turns_decide_who_is_next() -> None:
    clients = await filled()
    for name, claim in {"ann": ANN, "nice": Claim("bob", priority=5), "bob": BOB}.items():
        await clients.ask(name, claim)

    for each in ("r0", "r1", "bob", "ann"):
        await clients.end(each)

    assert clients.engine.asked[2:] == ["bob", "ann", "nice"]


async def test_who_leaves_the_queue_frees_its_place_at_once() -> None:
    clients = await filled(limits=Limits(waiting_max=1))
    await clients.ask("gone")

    await clients.leave("gone")
    await clients.ask("next")
    await clients.end("r0", "next")

    assert await clients.tasks["next"] == "once upon"
    assert "gone" not in clients.engine.asked


async def test_who_leaves_while_it_runs_is_cancelled_in_the_engine_and_followed() -> None:
    clients = await filled()
    await clients.ask("x")

    await clients.leave("r0")

    assert clients.engine.left == ["r0"]
    assert clients.engine.asked[-1] == "x"


async def test_who_leaves_in_the_moment_of_its_turn_blocks_nobody() -> None:
    clients = await filled()
    await clients.ask("gone")
    await clients.ask("next")

    clients.engine.ends["r0"].set()
    while not clients.tasks["r0"].done():
        await asyncio.sleep(0)
        if "r0" in clients.engine.left:
            clients.tasks["gone"].cancel()
    await settled()

    assert clients.engine.asked[-1] == "next"


async def test_a_full_queue_refuses_the_key_that_fills_it_with_429() -> None:
    clients = await filled(limits=Limits(waiting_max=2))
    for name in ("x", "y", "z"):
        await clients.ask(name)

    assert await clients.refusal("z") == (429, "queue_full")
    assert clients.queue.figures().refused["queue_full"] == 1


async def test_a_full_queue_makes_room_for_a_key_that_has_nothing_there() -> None:
    clients = await filled(limits=Limits(waiting_max=2))
    for name, claim in {"x": ANN, "y": ANN, "z": BOB}.items():
        await clients.ask(name, claim)

    assert await clients.refusal("y") == (429, "queue_full")
    assert not clients.tasks["z"].done()


async def test_a_queue_full_of_others_is_503() -> None:
    clients = await filled(limits=Limits(waiting_max=1))
    await clients.ask("x", ANN)
    await clients.ask("y", BOB)

    assert await clients.refusal("y") == (503, "overloaded")


async def test_a_key_at_its_limit_waits_for_itself_only() -> None:
    clients = Clients(Engine(n_slots=4), Limits(per_key_max=1))
    for name, claim in {"x": ANN, "y": ANN, "z": BOB}.items():
        await clients.ask(name, claim)
    assert clients.engine.asked == ["x", "z"]

    await clients.end("x")

    assert clients.engine.asked == ["x", "z", "y"]


async def test_a_deadline_that_passes_in_the_queue_is_503_and_frees_the_place() -> None:
    clients = await filled(limits=Limits(waiting_max=1))
    await clients.ask("late", Claim("ann", deadline=a_while()))

    assert await clients.refusal("late") == (503, "deadline_exceeded")
    assert not (await clients.ask("next")).done()


async def test_a_deadline_that_passes_in_mid_answer_is_504_and_frees_the_slot() -> None:
    clients = Clients(Engine())
    await clients.ask("late", Claim("ann", deadline=a_while()))

    assert await clients.refusal("late") == (504, "deadline_exceeded")
    assert clients.engine.left == ["late"]
    assert clients.queue.figures().running == 0


async def test_an_answer_within_its_deadline_is_whole() -> None:
    clients = Clients(Engine())
    await clients.ask("x", Claim("ann", deadline=a_while(60)))

    await clients.end("x")

    assert await clients.tasks["x"] == "once upon"


async def test_without_an_engine_requests_wait_for_the_next_one() -> None:
    clients = await filled()
    clients.engine.n_slots = 0
    clients.queue.look()
    await clients.ask("x")
    await clients.end("r0", "r1")
    assert "x" not in clients.engine.asked

    clients.engine.n_slots = 1
    clients.queue.look()
    await clients.end("x")

    assert await clients.tasks["x"] == "once upon"


async def test_too_long_without_an_engine_refuses_those_that_wait_and_those_that_come() -> None:
    clients = Clients(Engine(n_slots=0), engine_wait_s=SOON_S)
    clients.queue.look()
    await clients.ask("x")

    assert await clients.refusal("x") == (503, "cluster_capacity")
    assert (await clients.ask("y")).done()
    assert await clients.refusal("y") == (503, "cluster_capacity")


async def test_an_engine_that_comes_late_is_used_all_the_same() -> None:
    clients = Clients(Engine(n_slots=0), engine_wait_s=SOON_S)
    clients.queue.look()
    await clients.ask("x")
    await clients.refusal("x")

    clients.engine.n_slots = 1
    clients.queue.look()
    await clients.ask("y")
    await clients.end("y")

    assert await clients.tasks["y"] == "once upon"


async def test_a_model_that_is_given_up_is_waited_for_no_longer() -> None:
    clients = Clients(Engine(n_slots=0))
    clients.queue.look()
    await clients.ask("x")

    clients.engine.awaits = ()
    clients.queue.look()

    assert await clients.refusal("x") == (503, "cluster_capacity")


async def test_a_model_that_was_given_up_and_comes_back_is_waited_for_again() -> None:
    clients = Clients(Engine(n_slots=0, awaits=()))
    clients.queue.look()

    clients.engine.awaits = ("tiny",)
    clients.queue.look()

    assert not (await clients.ask("x")).done()


async def test_a_closed_queue_refuses_those_that_wait_and_lets_the_others_end() -> None:
    clients = await filled()
    await clients.ask("waits")

    clients.queue.close()
    await clients.ask("comes")
    await clients.end("r0", "r1")

    assert await clients.refusal("waits") == (503, "shutting_down")
    assert await clients.refusal("comes") == (503, "shutting_down")
    assert await asyncio.gather(clients.tasks["r0"], clients.tasks["r1"]) == ["once upon"] * 2
    assert clients.queue.not_ready_reason() == "shutting_down"


async def test_what_runs_on_is_cut_with_a_typed_error() -> None:
    clients = await filled()
    clients.queue.close()

    clients.queue.cut()

    assert await clients.refusal("r0") == (503, "shutting_down")
    assert await clients.refusal("r1") == (503, "shutting_down")
    assert clients.engine.left == ["r0", "r1"]


@pytest.mark.parametrize("over", [Clients.end, Clients.leave])
async def test_the_queue_is_empty_when_the_last_one_has_gone(over: Callable[[Clients, str], Awaitable[None]]) -> None:
    clients = Clients(Engine())
    await clients.ask("x")
    empty = asyncio.ensure_future(clients.queue.empty())
    await settled()
    assert not empty.done()

    await over(clients, "x")

    await asyncio.wait_for(empty, timeout=5)


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("ask"), st.sampled_from("abc"), st.integers(0, 2)),
        st.tuples(st.sampled_from(["end", "leave"]), st.integers(0, 9)),
        st.tuples(st.just("engine"), st.integers(0, 3)),
    ),
    max_size=40,
)


@given(STEPS, st.integers(0, 3), st.integers(0, 2))
def test_whatever_happens_the_engine_is_never_overfilled_and_everybody_hears_something(
    steps: list[tuple[object, ...]], waiting_max: int, per_key_max: int
) -> None:
    asyncio.run(_whatever_happens(steps, Limits(waiting_max, per_key_max)))


async def _whatever_happens(steps: list[tuple[object, ...]], limits: Limits) -> None:
    clients = Clients(Engine(), limits)
    for number, step in enumerate(steps):
        match step:
            case ("ask", str(key), int(priority)):
                await clients.ask(f"r{number}", Claim(key, priority))
            case ("end" | "leave" as what, int(at)) if clients.tasks:
                name = sorted(clients.tasks)[at % len(clients.tasks)]
                await (clients.end(name) if what == "end" else clients.leave(name))
            case ("engine", int(n_slots)):
                clients.engine.n_slots = n_slots
                clients.queue.look()
                await settled()
        unasked = {name for name, task in clients.tasks.items() if not task.done()} - {*clients.engine.asked}
        assert len(unasked) <= limits.waiting_max

    clients.engine.n_slots = 1
    clients.queue.look()
    await clients.end(*clients.tasks)
    said = await asyncio.gather(*clients.tasks.values(), return_exceptions=True)
    for each in said:
        match each:
            case ApiError():
                assert each.code in {"queue_full", "overloaded"}
            case other:
                assert other == "once upon" or isinstance(other, asyncio.CancelledError)
    assert sorted(clients.engine.left) == sorted(clients.engine.asked)
    assert (clients.queue.figures().running, clients.queue.figures().waiting) == (0, 0)
