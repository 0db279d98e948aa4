"""Who is next and who is turned away: tables for single decisions, and the laws under random comings and goings."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from rpcmesh.gateway import admission
from rpcmesh.gateway.admission import Limits, Line, Ticket

KEYS = st.sampled_from(["ann", "bob", "eve"])


def line_of(*said: str) -> Line:
    """``"ann"``, or ``"ann 5"`` with a priority: in order of arrival."""
    line = Line()
    for number, each in enumerate(said):
        key, _, priority = each.partition(" ")
        line = admission.join(line, Ticket(number, key, int(priority or 0)))
    return line


def order(line: Line, limits: Limits = Limits()) -> list[int]:  # noqa: B008 (frozen)
    """The numbers in the order in which they start when one is in the engine at a time."""
    numbers = []
    while True:
        line, started = admission.start(line, 1, limits)
        if not started:
            return numbers
        numbers += [ticket.number for ticket in started]
        line = admission.leave(line, started[0])


@pytest.mark.parametrize(
    ("said", "numbers"),
    [
        ((), []),
        (("ann", "ann", "ann"), [0, 1, 2]),
        (("ann 1", "ann", "ann 1"), [1, 0, 2]),
        (("ann 1", "bob"), [1, 0]),
        (("ann", "ann", "ann", "bob", "bob"), [0, 3, 1, 4, 2]),
        (("ann", "ann", "bob", "eve", "eve"), [0, 2, 3, 1, 4]),
        (("ann 2", "ann 2", "bob 1", "bob 1", "bob 0"), [4, 2, 3, 0, 1]),
    ],
    ids=["nobody", "arrival", "priority", "priority of others", "turn about", "three keys", "priority before turns"],
)
def test_the_order(said: tuple[str, ...], numbers: list[int]) -> None:
    assert order(line_of(*said)) == numbers


def test_a_key_with_fewer_running_goes_first() -> None:
    line, _ = admission.start(line_of("ann", "ann", "bob", "ann"), 3, Limits())
    line = admission.join(line, Ticket(4, "bob"))

    _, started = admission.start(line, 4, Limits())

    assert [ticket.number for ticket in started] == [4]


def test_a_key_at_its_limit_waits_and_lets_others_by() -> None:
    line, started = admission.start(line_of("ann", "ann", "ann", "bob"), 4, Limits(per_key_max=2))
    assert sorted(ticket.number for ticket in started) == [0, 1, 3]

    line, started = admission.start(admission.leave(line, Ticket(0, "ann")), 4, Limits(per_key_max=2))

    assert [ticket.number for ticket in started] == [2]


def test_without_an_engine_nobody_starts() -> None:
    line = line_of("ann", "bob")
    assert admission.start(line, 0, Limits()) == (line, ())


@pytest.mark.parametrize(
    ("said", "turned_away", "behind_its_own"),
    [
        (("ann", "ann"), None, False),
        (("ann", "ann", "ann"), 2, True),
        (("ann", "ann", "bob"), 1, True),
        (("bob", "ann", "eve"), 2, False),
        (("ann 3", "ann", "ann 1"), 0, True),
        (("ann 1", "ann", "bob"), 0, True),
    ],
    ids=["room", "its own", "who takes most", "of equals the last", "the least urgent", "the least urgent of most"],
)
def test_one_too_many(said: tuple[str, ...], turned_away: int | None, behind_its_own: bool) -> None:
    line = line_of(*said)

    surplus = admission.one_too_many(line, Limits(waiting_max=2))

    assert (surplus.number if surplus else None) == turned_away
    assert surplus is None or admission.waits_behind_its_own(line, surplus) == behind_its_own


@pytest.mark.parametrize(
    ("waiting", "places", "run_s", "seconds"),
    [
        (8, 4, None, 5),
        (8, 0, 3.0, 5),
        (8, 4, 3.0, 6),
        (7, 4, 3.0, 6),
        (1, 4, 0.01, 1),
        (64, 1, 30.0, 60),
    ],
    ids=["nothing known", "no engine", "a rate", "rounded up", "at least", "at most"],
)
def test_when_to_try_again(waiting: int, places: int, run_s: float | None, seconds: int) -> None:
    assert admission.retry_after_s(waiting, places, run_s) == seconds


def test_the_mean_follows_what_was_seen() -> None:
    mean_s = admission.mean_run_s(None, 10.0)
    assert mean_s == 10.0
    for _ in range(100):
        mean_s = admission.mean_run_s(mean_s, 2.0)
    assert mean_s == pytest.approx(2.0, abs=0.01)


@given(
    here=st.lists(KEYS, max_size=12),
    places=st.integers(1, 3),
    steps=st.lists(st.tuples(st.integers(0, 2), st.lists(st.integers(0, 9), max_size=3)), max_size=60),
)
def test_however_many_come_nobody_waits_longer_than_one_round_of_the_keys_that_were_there(
    here: list[str], places: int, steps: list[tuple[int, list[int]]]
) -> None:
    """Each step one answer ends and others arrive, of old keys and new ones."""
    line, _ = admission.start(line_of(*here), places, Limits())
    mine = Ticket(1000, "me")
    line = admission.join(line, mine)
    ahead = len({ticket.key for ticket in line.waiting}) - 1
    n_started = 0
    for step, (ends, arrivals) in enumerate(steps):
        if line.running:
            line = admission.leave(line, line.running[ends % len(line.running)])
        for i, key in enumerate(arrivals):
            line = admission.join(line, Ticket(2000 + 10 * step + i, f"key{key}"))
        line, started = admission.start(line, places, Limits())
        if mine in started:
            return
        n_started += len(started)
    assert n_started <= ahead


class Traffic(RuleBasedStateMachine):
    """Random arrivals, ends, departures and engines. The laws are checked after each of them."""

    @initialize(waiting_max=st.integers(0, 4), per_key_max=st.integers(0, 2))
    def open(self, waiting_max: int, per_key_max: int) -> None:
        self.limits = Limits(waiting_max, per_key_max)
        self.line = Line()
        self.places = 0
        self.n_arrived = 0
        self.open_tickets: set[Ticket] = set()

    @rule(key=KEYS, priority=st.integers(0, 2))
    def arrive(self, key: str, priority: int) -> None:
        ticket = Ticket(self.n_arrived, key, priority)
        self.n_arrived += 1
        self.open_tickets.add(ticket)
        self.line = admission.join(self.line, ticket)
        self._start()
        surplus = admission.one_too_many(self.line, self.limits)
        if surplus is not None:
            waiting = Counter(each.key for each in self.line.waiting)
            assert waiting[surplus.key] == max(waiting.values())
            self._forget(surplus)

    @precondition(lambda self: self.line.running)
    @rule(data=st.data())
    def end(self, data: st.DataObject) -> None:
        self._forget(data.draw(st.sampled_from(self.line.running)))
        self._start()

    @precondition(lambda self: self.line.waiting)
    @rule(data=st.data())
    def give_up_waiting(self, data: st.DataObject) -> None:
        self._forget(data.draw(st.sampled_from(self.line.waiting)))
        self._start()

    @rule(places=st.integers(0, 4))
    def another_engine(self, places: int) -> None:
        """0: none. What runs goes on with the next one, which may have fewer places."""
        self.places = places
        self._start()

    def _start(self) -> None:
        before = self.line
        self.line, started = admission.start(before, self.places, self.limits)
        assert len(self.line.running) <= max(self.places, len(before.running))
        for ticket in started:
            self._check_turn(before, ticket)
            before, _ = admission.start(before, len(before.running) + 1, self.limits)

    def _check_turn(self, before: Line, ticket: Ticket) -> None:
        running = Counter(each.key for each in before.running)
        for other in before.waiting:
            if self._may(running, other) and other != ticket:
                assert (ticket.priority, running[ticket.key]) <= (other.priority, running[other.key])
                assert (ticket.key, ticket.priority) != (other.key, other.priority) or ticket.number < other.number

    def _may(self, running: Counter[str], ticket: Ticket) -> bool:
        return self.limits.per_key_max == 0 or running[ticket.key] < self.limits.per_key_max

    def _forget(self, ticket: Ticket) -> None:
        self.line = admission.leave(self.line, ticket)
        self.open_tickets.remove(ticket)

    @invariant()
    def nobody_is_lost_or_doubled(self) -> None:
        assert sorted((*self.line.waiting, *self.line.running), key=lambda each: each.number) == sorted(
            self.open_tickets, key=lambda each: each.number
        )

    @invariant()
    def the_limits_hold(self) -> None:
        assert len(self.line.waiting) <= self.limits.waiting_max
        running = Counter(each.key for each in self.line.running)
        assert not self.limits.per_key_max or max(running.values(), default=0) <= self.limits.per_key_max

    @invariant()
    def no_place_is_left_empty(self) -> None:
        running = Counter(each.key for each in self.line.running)
        if len(self.line.running) < self.places:
            assert not any(self._may(running, each) for each in self.line.waiting)

    @invariant()
    def no_key_is_remembered_without_a_ticket(self) -> None:
        assert set(self.line.turns) == {each.key for each in self.open_tickets}

    def teardown(self) -> None:
        """Nobody starves: with an engine, and without new arrivals, everything runs and ends."""
        self.places = max(self.places, 1)
        self._start()
        for _ in range(len(self.open_tickets)):
            self._forget(self.line.running[0])
            self._start()
        assert self.line == Line(clock=self.line.clock)


Traffic.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestLaws = Traffic.TestCase
