"""Each check of a home and of what runs from it as a table: facts in, level and fix out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
from doctor_facts import GIB, HOME, UID, agent, facts, leaf_of, levels, node, report, said, worker

from rpcmesh.doctor import rows
from rpcmesh.doctor.checks.home import repairs
from rpcmesh.doctor.facts import BuildSeen, Entry, Facts, Leaf, Listening, ModelFile, Native, NotRunning, Unknown
from rpcmesh.doctor.findings import Finding
from rpcmesh.node.status import Device


@pytest.mark.parametrize(
    ("age_days", "level", "words"),
    [
        (0.0, "ok", "good for 7 d more"),
        (5.2, "ok", "good for 1 d more"),
        (5.3, "warn", "should have been renewed"),
        (7.0, "fail", "expired 0 s ago"),
        (9.0, "fail", "expired 2 d ago"),
        (-1.0, "fail", "valid only in 1 d"),
    ],
)
def test_a_certificate_warns_past_three_quarters_of_its_life(age_days: float, level: str, words: str) -> None:
    not_before, not_after = leaf_of(age_days)

    (own,) = said("certificate", leaf=Leaf(uri="u", not_before=not_before, not_after=not_after))
    (of_node,) = said("certificates", coordinator=report(node(said_last=agent(age_days))))

    assert (own.level, of_node.level) == (level, level)
    assert words in own.message
    assert words in of_node.message
    assert (own.fix is None) == (level == "ok")


def test_a_home_that_could_not_be_entered_is_not_called_empty() -> None:
    assert said("mesh", role="none", leaf=Unknown("permission denied")) == []
    assert levels("certificate", role="none", leaf=Unknown("permission denied")) == ["warn"]


def test_a_damaged_identity_fails_in_its_own_words() -> None:
    (finding,) = said("certificate", leaf=Leaf(problem="it is damaged", fix="restore it"))

    assert (finding.level, finding.message, finding.fix) == ("fail", "it is damaged", "restore it")


@pytest.mark.parametrize(
    ("kind", "mode", "fix"),
    [
        ("directory", 0o700, None),
        ("directory", 0o755, "chmod 700 /home/mesh/x"),
        ("file", 0o600, None),
        ("file", 0o400, None),
        ("file", 0o640, "chmod 600 /home/mesh/x"),
        ("socket", 0o600, None),
        ("socket", 0o777, "chmod 600 /home/mesh/x"),
    ],
)
def test_rights_of_others_fail_and_can_be_taken_away(kind: Any, mode: int, fix: str | None) -> None:
    entries = (Entry(HOME / "x", kind, mode, UID),)

    (finding,) = said("permissions", entries=entries)

    assert (finding.level, finding.fix) == ("ok" if fix is None else "fail", fix)
    assert [repair.command for repair in repairs(facts(entries=entries))] == ([fix] if fix else [])


def test_what_belongs_to_somebody_else_fails_and_is_not_repaired() -> None:
    entries = (Entry(HOME / "x", "file", 0o644, 0),)

    (finding,) = said("permissions", entries=entries)

    assert (finding.level, finding.fix) == ("fail", "sudo chown 1000 /home/mesh/x")
    assert repairs(facts(entries=entries)) == ()


@pytest.mark.parametrize(
    ("builds", "level", "fix"),
    [
        ((), "warn", "rpcmesh build"),
        ((BuildSeen(Path("/c/1"), "b1"),), "ok", None),
        ((BuildSeen(Path("/c/1"), "b1", problem="changed"),), "fail", "rm -r /c/1 && rpcmesh build"),
    ],
)
def test_binaries_must_be_what_was_built(builds: Any, level: str, fix: str | None) -> None:
    (finding,) = said("binaries", builds=builds)

    assert (finding.level, finding.fix) == (level, fix)


def test_a_missing_compiler_comes_with_the_command_that_installs_it() -> None:
    (finding,) = said("native build", native=Native(("cmake", "make or ninja"), "apt install x"))

    assert (finding.level, finding.fix) == ("fail", "apt install x")
    assert "cmake and make or ninja" in finding.message
    assert levels("native build", native=Native((), "")) == ["ok"]


@pytest.mark.parametrize(
    ("model", "level"),
    [
        (ModelFile("", 0), "warn"),
        (ModelFile("m", GIB), "ok"),
        (ModelFile("m", 0, problem="not a GGUF file", fix="copy it"), "fail"),
    ],
)
def test_the_model_file_is_there_and_a_model(model: ModelFile, level: str) -> None:
    assert levels("model file", model=model) == [level]


@pytest.mark.parametrize(
    ("size_bytes", "changes", "level"),
    [
        (9 * GIB, {}, "ok"),
        (9 * GIB + 1, {}, "warn"),
        (20 * GIB, {"workers": (worker(devices=(Device("CUDA0", "gpu", 24576, 20480),)),)}, "ok"),
        (20 * GIB, {"workers": (worker(devices=(Device("CPU", "cpu", 24576, 24576),)),)}, "warn"),
    ],
)
def test_the_model_is_compared_with_the_room_on_the_nodes(size_bytes: int, changes: Any, level: str) -> None:
    mesh = report(node(said_last=agent(**changes)))

    assert levels("memory", coordinator=mesh, model=ModelFile("m", size_bytes)) == [level]


@pytest.mark.parametrize(
    ("state", "reason", "level", "words"),
    [
        ("up", "", "ok", "a is up"),
        ("unseen", "", "warn", "not been heard of"),
        ("down", "nothing answers", "fail", "a is down: nothing answers"),
        ("revoked", "revoked", "ok", "a is revoked"),
    ],
)
def test_each_state_of_a_node_is_said_with_its_reason(state: str, reason: str, level: str, words: str) -> None:
    (finding,) = said("nodes", coordinator=report(node(state=state, reason=reason)))

    assert finding.level == level
    assert words in finding.message


def test_a_mesh_without_nodes_is_told_how_one_joins() -> None:
    assert [(one.level, one.fix) for one in said("nodes", coordinator=report())] == [("warn", "rpcmesh token create")]


@pytest.mark.parametrize(
    ("state", "level"), [("ready", "ok"), ("starting", "warn"), ("backoff", "fail"), ("given_up", "fail")]
)
def test_a_worker_that_is_not_ready_is_said_with_its_last_exit(state: str, level: str) -> None:
    status = agent(workers=(worker(state=state, last_exit="killed by SIGKILL"),))

    (of_node,) = said("workers", coordinator=report(node(said_last=status)))
    own = said("node", role="node", agent=status)[1]

    assert (of_node.level, own.level) == (level, level)
    assert ("killed by SIGKILL" in of_node.message) == (level != "ok")


def test_what_a_lost_node_said_last_is_not_repeated() -> None:
    lost = report(node(state="down", reason="gone", said_last=agent()))

    assert said("workers", coordinator=lost) == said("certificates", coordinator=lost) == []


def test_a_node_with_another_build_fails_and_both_ids_are_named() -> None:
    mesh = report(node(said_last=agent()), node("b", "down", "other build", agent(build_id="b2")))

    same, other = said("build ids", coordinator=mesh)

    assert (same.level, other.level) == ("ok", "fail")
    assert other.message == "b has build b2, the coordinator b1"


@pytest.mark.parametrize(
    ("other", "noted"),
    [
        ({"os": "Linux 5.15"}, False),
        ({"arch": "aarch64"}, True),
        ({"os": "macOS 15.1"}, True),
    ],
)
def test_another_system_is_a_note_and_another_release_not_even_that(other: Any, noted: bool) -> None:
    mesh = report(node(said_last=agent()), node("b", said_last=agent(**other)))

    assert levels("systems", coordinator=mesh) == (["ok"] if noted else [])


def test_a_coordinator_that_does_not_run_is_one_warning() -> None:
    known = facts(coordinator=NotRunning("no coordinator answers", "rpcmesh serve"))

    wrong = [finding for finding in rows.examine(known) if finding.check in ("coordinator", "nodes", "workers")]

    assert wrong == [Finding("coordinator", "warn", "no coordinator answers", "rpcmesh serve")]


@pytest.mark.parametrize(("state", "level"), [("failed", "fail"), ("waiting", "warn")])
def test_a_model_that_does_not_serve_is_said_with_its_reason(state: str, level: str) -> None:
    finding = said("coordinator", coordinator=report(state=state, reason="too large"))[1]

    assert finding.level == level
    assert "too large" in finding.message


def test_an_address_that_is_gone_fails() -> None:
    assert levels("address", listening=Listening("10.0.0.1:1")) == ["ok"]
    assert levels("address", listening=Listening("10.0.0.1:1", problem="gone")) == ["fail"]


def test_every_fact_that_could_not_be_had_is_said_and_fails_nothing() -> None:
    missing = Unknown("the disk is asleep")
    names = {field.name for field in msgspec.structs.fields(Facts)} - {"now", "role", "home", "uid", "disks"}
    known = facts(**dict.fromkeys(names, missing), disks=(missing,))

    found = rows.examine(known)

    unseen = [finding for finding in found if finding.message == "could not be looked at: the disk is asleep"]
    assert len(unseen) == len(names) + 1
    assert {finding.level for finding in unseen} == {"warn"}
    assert rows.healthy(found)
    assert repairs(known) == ()
