"""An open answer asks each engine to go on behind what was sent, and not for ever."""

from __future__ import annotations

import msgspec

from rpcmesh.coordinator.open_answer import FRUITLESS_ENGINES_MAX, OpenAnswer
from rpcmesh.engine.messages import Delta, GenerateRequest, Sampling, TextPrompt

ASKED = GenerateRequest("a", TextPrompt("once"), max_tokens=9)


def delta(*tokens: int) -> Delta:
    return Delta("a", "text", tokens)


def test_the_first_engine_is_asked_what_the_client_asked_with_a_seed_that_stays() -> None:
    answer = OpenAnswer(ASKED, seed=7)

    assert answer.to_ask() == msgspec.structs.replace(ASKED, sampling=Sampling(seed=7))
    answer.took(delta(1))
    assert answer.to_ask().sampling.seed == 7


def test_a_seed_of_the_client_s_own_is_kept() -> None:
    asked = msgspec.structs.replace(ASKED, sampling=Sampling(seed=1))

    assert OpenAnswer(asked, seed=7).to_ask() == asked


def test_the_next_engine_goes_on_behind_what_was_sent() -> None:
    answer = OpenAnswer(ASKED, seed=7)
    for tokens in ((1, 2), (), (3,)):
        answer.took(delta(*tokens))

    assert answer.to_ask().resume_token_ids == (1, 2, 3)
    assert answer.to_ask().max_tokens == 9


def test_an_answer_under_which_engines_keep_ending_is_given_up() -> None:
    answer = OpenAnswer(ASKED, seed=7)

    assert [answer.engine_lost(planned=False) for _ in range(FRUITLESS_ENGINES_MAX)] == [True, True, True, True, False]


def test_a_token_in_between_shows_that_the_answer_is_not_to_blame() -> None:
    answer = OpenAnswer(ASKED, seed=7)
    for _ in range(10):
        assert answer.engine_lost(planned=False)
        answer.took(delta(1))


def test_an_answer_that_is_moved_by_an_admin_is_never_given_up() -> None:
    answer = OpenAnswer(ASKED, seed=7)

    assert all(answer.engine_lost(planned=True) for _ in range(FRUITLESS_ENGINES_MAX))
    assert answer.engine_lost(planned=False)
