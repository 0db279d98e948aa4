"""What is said of walls and ports, and of what a coordinator measured: facts in, level and fix out."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from doctor_facts import agent, levels, node, report, said

from rpcmesh.doctor.facts import Clock, Link, Listener, Measured, Tried, Unknown, Walls
from rpcmesh.doctor.rows import ROWS
from rpcmesh.firewall.watch import FirewallStatus, State

MS = 1e-3
GBIT = 1e9


def walls(**changes: Any) -> Walls:
    confined = {
        "worker": "w0",
        "uid": 998,
        "no_new_privileges": True,
        "call_filter": True,
        "own_network": False,
    }
    return Walls(**{**confined, **changes})


@pytest.mark.parametrize(
    ("seen", "level", "message"),
    [
        (walls(), "ok", "worker w0 has the host's network and a system call filter"),
        (
            walls(call_filter=False, own_network=True),
            "ok",
            "worker w0 has a network of its own and no system call filter",
        ),
        (walls(call_filter=False), "warn", "worker w0 has the host's network and no system call filter"),
        (
            walls(call_filter=False, own_network=None),
            "warn",
            "worker w0 has a network that could not be seen and no system call filter",
        ),
        (
            walls(uid=0, own_network=True, no_new_privileges=False),
            "warn",
            "worker w0 has a network of its own and a system call filter, may gain rights, runs as root",
        ),
    ],
)
def test_a_worker_without_walls_warns_and_so_does_one_of_roots(seen: Walls, level: str, message: str) -> None:
    (finding,) = said("sandbox", role="node", walls=(seen,))

    assert (finding.level, finding.message) == (level, message)
    assert finding.fix == (None if level == "ok" else "sudo rpcmesh service install --role node")


def test_a_worker_that_is_gone_hides_nothing_of_the_next() -> None:
    seen = (Unknown("worker w0: it is gone, or out of sight"), walls(worker="guest"))

    assert levels("sandbox", role="node", walls=seen) == ["warn", "ok"]


TUNNEL = Listener("rpcmesh-tunnel", 7, "10.0.0.2", 7443)


@pytest.mark.parametrize(
    ("listeners", "expected"),
    [
        ((), [("ok", "nothing listens on a port")]),
        ((TUNNEL,), [("ok", "only the tunnel listens, on 10.0.0.2:7443")]),
        (
            (TUNNEL, Listener("rpc-server", 9, "::", 50052)),
            [("fail", "rpc-server (pid 9) listens on [::]:50052: only the tunnel may")],
        ),
    ],
)
def test_only_the_tunnel_may_listen(listeners: tuple[Listener, ...], expected: list[tuple[str, str]]) -> None:
    found = said("open ports", role="node", listeners=listeners)

    assert [(finding.level, finding.message) for finding in found] == expected


@pytest.mark.parametrize(
    ("link", "level", "words"),
    [
        (
            Link("a", 0.4 * MS, 9.84 * GBIT, 9.44 * GBIT),
            "ok",
            "a: 0.4 ms round trip, 9.8 Gbit/s there, 9.4 Gbit/s back",
        ),
        (Link("a", 5 * MS, 0.5 * GBIT, 0.5 * GBIT), "ok", "500 Mbit/s there"),
        (Link("a", 5.1 * MS, GBIT, GBIT), "warn", "each token waits for it"),
        (Link("a", 1 * MS, 0.49 * GBIT, GBIT), "warn", "models load and long prompts run slowly"),
        (Link("a", 1 * MS, GBIT, 0.49 * GBIT), "warn", "models load and long prompts run slowly"),
        (Link("a", 2.5, 10.0, 10.0), "warn", "2.5 s round trip, 0 Mbit/s there"),
    ],
)
def test_a_link_that_makes_tokens_wait_or_models_slow_to_load_warns(link: Link, level: str, words: str) -> None:
    (finding,) = said("links", measured=Measured(links=(link,)))

    assert finding.level == level
    assert words in finding.message
    assert (finding.fix is None) == (level == "ok")


@pytest.mark.parametrize(
    ("ahead_s", "uncertainty_s", "level", "words"),
    [
        (0.0, 0.2 * MS, "ok", "a's clock is within 0.2 ms of this one"),
        (-0.9, 0.05, "ok", "within 950.0 ms"),
        # Half of the difference may be the network's doing.
        (1.9, 1.0, "ok", "within 2.9 s"),
        (1.1, 0.05, "warn", "1.1 s ahead of this one"),
        (-45.0, 0.1, "warn", "45.0 s behind this one"),
        (61.0, 0.5, "fail", "1 min ahead of this one"),
        (-3 * 86400.0, 0.5, "fail", "3 d behind this one"),
    ],
)
def test_a_clock_is_wrong_by_what_the_network_cannot_explain(
    ahead_s: float, uncertainty_s: float, level: str, words: str
) -> None:
    (finding,) = said("clocks", measured=Measured(clocks=(Clock("a", "Linux 6.1", ahead_s, uncertainty_s),)))

    assert finding.level == level
    assert words in finding.message


@pytest.mark.parametrize(
    ("os", "command"),
    [("Linux 6.1", "sudo timedatectl set-ntp true"), ("macOS 15.1", "sudo sntp -sS time.apple.com")],
)
def test_a_wrong_clock_is_set_with_its_own_systems_command(os: str, command: str) -> None:
    (finding,) = said("clocks", measured=Measured(clocks=(Clock("a", os, 10.0, 0.0),)))

    assert finding.fix == f"on a: {command}; unless this one is wrong"


@pytest.mark.parametrize(
    ("result", "level", "message"),
    [
        ("silent", "ok", "b's firewall drops a"),
        ("unreachable", "ok", "a has no way to b"),
        ("connected", "warn", "a reaches b's port 7443: its firewall lets strangers in"),
        ("refused", "warn", "b answers a on port 7443 with a refusal: a firewall would be silent"),
    ],
)
def test_a_node_that_answers_another_warns(result: Any, level: str, message: str) -> None:
    (finding,) = said("strangers", measured=Measured(tried=(Tried("a", "b", "10.0.0.3:7443", result),)))

    assert (finding.level, finding.message) == (level, message)
    assert finding.fix == (None if level == "ok" else "on b: rpcmesh firewall apply")


@pytest.mark.parametrize("check", ["links", "clocks", "strangers"])
def test_a_node_that_went_away_is_named_and_the_others_are_judged(check: str) -> None:
    gone = Unknown("a: the agent cannot be reached")
    seen = Measured(
        links=(gone, Link("b", MS, GBIT, GBIT)),
        clocks=(gone, Clock("b", "Linux", 0.0, MS)),
        tried=(gone, Tried("b", "a", "10.0.0.2:7443", "silent")),
    )

    first, second = said(check, measured=seen)

    assert (first.level, first.message) == ("warn", "could not be looked at: a: the agent cannot be reached")
    assert second.level == "ok"


def test_a_mesh_that_could_not_be_measured_is_said_once() -> None:
    unseen = Unknown("no coordinator answers")

    checks = ("links", "clocks", "strangers")
    assert [len(said(check, measured=unseen)) for check in checks] == [1, 0, 0]


def test_every_row_has_a_name_of_its_own() -> None:
    names = [row.name for row in ROWS]

    assert len(set(names)) == len(names)


@pytest.mark.parametrize(
    ("status", "level", "words"),
    [
        (FirewallStatus(State.VERIFIED), "ok", "is verified"),
        (FirewallStatus(State.DRIFT, "rules were changed", 1), "fail", "is not as meant: rules were changed"),
        (FirewallStatus(State.UNWATCHED, "gone silent"), "warn", "gone silent"),
    ],
    ids=["verified", "drift", "unwatched"],
)
def test_a_firewall_is_as_those_say_who_watch_it(status: FirewallStatus, level: str, words: str) -> None:
    seen = msgspec.structs.replace(report(node(said_last=agent(firewall=status))), firewall=status)

    for row in ("firewall", "firewalls"):
        [finding] = said(row, coordinator=seen)
        assert finding.level == level
        assert words in finding.message
