"""What is said of a worker's sandbox, on its node and on the coordinator: status in, level and fix out."""

from __future__ import annotations

import pytest
from doctor_facts import CONFINED, agent, node, report, said, worker

from rpcmesh.node.status import SandboxStatus

LANDLOCK = "landlock: this kernel has none"
USER = "user: this system has no user 'nobody' to become"
INSTALL = "sudo rpcmesh service install --role node"
KERNEL = "a Linux of 5.13 or later with landlock in /sys/kernel/security/lsm"
TURN_ON = '[node] sandbox = "auto" in the config, then rpcmesh node run'


@pytest.mark.parametrize(
    ("sandbox", "level", "says", "fix"),
    [
        (CONFINED, "ok", "is confined: Landlock 7, a system call filter, user 998, 2 limits", None),
        (
            SandboxStatus(state="confined", profile="worker.sb", uid=478, limits={"core_mib": 0}),
            "ok",
            "is confined: the profile worker.sb, user 478, 1 limits",
            None,
        ),
        (SandboxStatus(state="partial", missing=(LANDLOCK,)), "warn", f"lacks {LANDLOCK}", KERNEL),
        (
            SandboxStatus(state="partial", missing=(USER, LANDLOCK, "landlock: once more")),
            "warn",
            f"lacks {USER}; {LANDLOCK}; landlock: once more",
            f"{INSTALL}; {KERNEL}",
        ),
        (SandboxStatus(state="off"), "warn", "is not confined: the config says so", TURN_ON),
        (SandboxStatus(), "warn", "says nothing of its sandbox", "rpcmesh node run, from a newer rpcmesh"),
    ],
    ids=["confined", "macos", "no landlock", "several", "off", "silent"],
)
def test_a_worker_is_as_confined_as_it_said(sandbox: SandboxStatus, level: str, says: str, fix: str | None) -> None:
    of_node = agent(workers=(worker(sandbox=sandbox),))

    (own,) = said("confinement", role="node", agent=of_node)
    (theirs,) = said("confinements", coordinator=report(node(said_last=of_node)))

    assert (own.level, own.message, own.fix) == (level, f"worker w0 {says}", fix)
    assert (theirs.level, theirs.message) == (level, f"worker w0 of a {says}")
    assert theirs.fix == (f"on a: {fix}" if fix else None)


@pytest.mark.parametrize("state", ["starting", "backoff", "given_up"])
def test_a_worker_that_is_not_ready_has_said_nothing_yet(state: str) -> None:
    assert said("confinement", role="node", agent=agent(workers=(worker(state=state, sandbox=SandboxStatus()),))) == []
