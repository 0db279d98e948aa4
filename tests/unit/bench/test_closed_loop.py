"""What the clients of a turn ask, and what their answers amount to."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rpcmesh.bench import closed_loop
from rpcmesh.bench.closed_loop import Turn
from rpcmesh.bench.streams import Told


def told(began: float, *arrivals: float) -> Told:
    return Told("once", began, [], list(arrivals), len(arrivals), arrivals[-1])


@given(turn=st.integers(0, 100), clients=st.integers(1, 16), tokens=st.integers(2, 400))
def test_all_clients_have_equally_much_to_do(turn: int, clients: int, tokens: int) -> None:
    for client in range(clients):
        asked = closed_loop.questions(turn, client, clients, tokens)

        assert sum(question.max_tokens for question in asked) == closed_loop.ANSWERS * tokens
        assert all(0 < question.max_tokens <= tokens for question in asked)


def test_the_same_turn_asks_the_same() -> None:
    assert closed_loop.questions(3, 1, 4, 64) == closed_loop.questions(3, 1, 4, 64)


def test_clients_end_their_first_answers_one_after_the_other() -> None:
    firsts = [closed_loop.questions(0, client, 16, 64)[0].max_tokens for client in range(16)]

    assert all(earlier < later for earlier, later in pairwise(firsts))


def test_no_two_prompts_of_a_run_begin_alike() -> None:
    beginnings = [
        tuple(question.prompt.split()[:5])
        for clients in (1, 4, 16)
        for turn in range(6)
        for client in range(clients)
        for question in closed_loop.questions(turn, client, clients, 64)
    ]

    assert len(set(beginnings)) == len(beginnings)


def test_a_turn_is_the_time_from_the_first_question_to_the_last_token() -> None:
    turn = closed_loop.outcome([told(10.0, 11.0, 11.5, 12.0), told(10.5, 12.0, 14.0)], 0.1, 0.2)

    assert turn.tokens_per_s == pytest.approx(5 / 4)
    assert turn.first_s == (1.0, 1.5)
    assert turn.between_s == (0.5, 0.5, 2.0)
    assert (turn.clients_cpu, turn.idle_cpu) == (0.1, 0.2)


def test_latencies_are_those_of_all_turns_together() -> None:
    turns = [Turn(1.0, (0.1, 0.2), (0.01,)), Turn(1.0, (0.3, 0.4), (0.03, 0.02))]

    assert closed_loop.latency(turns) == closed_loop.Latency(200.0, 400.0, 20.0, 30.0)
