"""A failover's stages are those that the answers which were open went through, and end with the last of them."""

from __future__ import annotations

from rpcmesh.coordinator.answers import Answers
from rpcmesh.coordinator.failover import Failover, Stage
from rpcmesh.coordinator.moves import Ended

LOST, MOVED = Ended("the engine was lost"), Ended("node a is drained", planned=True)


class Mesh:
    """Answers on a clock that is set by hand, and every failover that they told of."""

    def __init__(self) -> None:
        self.now = 100.0
        self.told: list[Failover] = []
        self.answers = Answers(self.told.append, lambda: self.now)

    def reach(self, stage: Stage, after_s: float) -> None:
        self.now += after_s
        self.answers.reached(stage)


def test_an_open_answer_sees_every_stage_and_then_the_failover_is_over() -> None:
    mesh = Mesh()
    with mesh.answers.one_more():
        mesh.answers.begin_failover(LOST)
        for stage in (Stage.PLANNED, Stage.STARTED, Stage.LOADED, Stage.RESTORED):
            mesh.reach(stage, 1.0)
        mesh.now += 1.0
        mesh.answers.took()
        mesh.answers.took()

    assert mesh.told[-1].stages == {
        "planned": 1.0,
        "engine_started": 2.0,
        "loaded": 3.0,
        "restored": 4.0,
        "first_new_token": 5.0,
    }
    assert len(mesh.told) == 5


def test_what_the_lost_engine_had_sent_is_no_new_token() -> None:
    mesh = Mesh()
    with mesh.answers.one_more():
        mesh.answers.begin_failover(LOST)
        mesh.answers.took()

    assert mesh.told == []


def test_a_question_asked_after_those_who_waited_have_left_is_none_of_the_failover_s() -> None:
    mesh = Mesh()
    with mesh.answers.one_more():
        mesh.answers.begin_failover(LOST)
        mesh.reach(Stage.LOADED, 1.0)
    mesh.now += 600.0
    with mesh.answers.one_more():
        mesh.answers.took()

    assert mesh.told[-1].stages == {"loaded": 1.0}


def test_who_leaves_before_the_load_leaves_no_failover_open() -> None:
    mesh = Mesh()
    with mesh.answers.one_more():
        mesh.answers.begin_failover(LOST)
    mesh.reach(Stage.LOADED, 1.0)
    mesh.now += 600.0
    with mesh.answers.one_more():
        mesh.answers.took()

    assert mesh.told[-1].stages == {"loaded": 1.0}


def test_a_planned_end_that_nobody_feels_is_no_failover() -> None:
    mesh = Mesh()
    mesh.answers.begin_failover(MOVED)
    mesh.reach(Stage.LOADED, 1.0)

    assert mesh.told == []


def test_nobody_is_idle_while_an_answer_is_open() -> None:
    mesh = Mesh()
    with mesh.answers.one_more():
        mesh.now = 110.0
        assert mesh.answers.idle_s(100.0) == 0.0
    mesh.now = 113.0

    assert mesh.answers.idle_s(100.0) == 3.0
    assert mesh.answers.idle_s(112.0) == 1.0


def test_an_engine_has_served_once_somebody_got_something_of_it() -> None:
    mesh = Mesh()
    assert not mesh.answers.served_since(100.0)
    mesh.now = 101.0
    mesh.answers.took()

    assert mesh.answers.served_since(100.0)
