"""``rpcmesh demo`` as a user meets it: the answer, the JSON, ``--keep``, and Ctrl-C at any moment."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from whole_mesh import RPCMESH, processes_below, run_cli, short_home

LIMIT_S = 120.0


@pytest.fixture
def root(build: object, smollm2: Path) -> Iterator[Path]:
    """An empty directory for ``RPCMESH_HOME``; the native build and the model are there already."""
    with short_home() as home:
        root = home.root / "demo"
        yield root


@contextlib.contextmanager
def demo(root: Path, *options: str) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [*RPCMESH, "demo", *options],
        env={**os.environ, "RPCMESH_HOME": str(root)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as running:
        try:
            yield running
        finally:
            running.kill()


def wait_until(true: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + LIMIT_S
    while not true():
        assert time.monotonic() < deadline, f"{what} did not come within {LIMIT_S:.0f} s"
        time.sleep(0.01)


def assert_nothing_is_left(root: Path) -> None:
    assert not root.exists()
    assert processes_below(root) == []


def test_the_demo_answers_and_leaves_nothing(root: Path) -> None:
    done = run_cli(root, "demo")

    assert done.returncode == 0, done.stderr
    assert "The capital of France is Paris." in done.stdout
    assert "tokens/s" in done.stdout
    for node in ("node-1", "node-2"):
        line = next(line for line in done.stdout.splitlines() if line.startswith(node))
        assert "TLSv1.3" in line
        assert "TLS_AES" in line
    assert_nothing_is_left(root)


def test_the_json_says_what_was_answered_and_by_whom(root: Path) -> None:
    done = run_cli(root, "demo", "--json", "--nodes", "3", "--prompt", "Name one colour.")

    assert done.returncode == 0, done.stderr
    shown = json.loads(done.stdout)
    assert shown["question"] == "Name one colour."
    assert shown["answer"]
    assert shown["prompt_tokens"] > 0
    assert shown["completion_tokens"] > 0
    assert shown["tokens_per_s"] > 0
    assert [worker["node"] for worker in shown["workers"]] == ["node-1", "node-2", "node-3"]
    assert {worker["tls_version"] for worker in shown["workers"]} == {"TLSv1.3"}
    assert all(worker["layers"] and worker["cipher"] for worker in shown["workers"])
    assert "api_key" not in shown
    assert_nothing_is_left(root)


def test_a_node_killed_in_mid_answer_costs_neither_a_token_nor_the_model_s_own_words(root: Path) -> None:
    done = run_cli(root, "demo", "--json", "--kill-node")

    assert done.returncode == 0, done.stderr
    killed = json.loads(done.stdout)["kill"]
    assert killed["node"] == "node-2"
    assert killed["sent_intact"] is True
    assert killed["continuation_valid"] is True, killed
    assert [*killed["stages"]] == ["planned", "engine_started", "loaded", "first_new_token"]
    assert killed["recovery_s"] > 0
    assert killed["tokens_after"] > 0
    assert_nothing_is_left(root)


def test_a_demo_of_one_node_has_none_to_kill(root: Path) -> None:
    done = run_cli(root, "demo", "--kill-node", "--nodes", "1")

    assert done.returncode == 2
    assert "--kill-node needs a node that is left" in done.stderr
    assert not root.exists()


def test_a_kept_demo_serves_other_shells_until_it_is_interrupted(root: Path) -> None:
    with demo(root, "--keep", "--json") as running:
        assert running.stdout is not None
        shown = json.loads("".join(iter(running.stdout.readline, "}\n")) + "}")
        assert shown["home"] == str(root)

        status = run_cli(root, "status")
        keys = run_cli(root, "key", "ls", "--json")
        answer = run_cli(
            root,
            *("chat", "What is the capital of France? Answer in one sentence.", "--temperature", "0"),
            *("--url", shown["url"], "--ca-file", shown["ca_file"], "--model", shown["model"]),
            RPCMESH_API_KEY=shown["api_key"],
        )
        running.send_signal(signal.SIGINT)
        _, said = running.communicate(timeout=LIMIT_S)

    assert (status.returncode, answer.returncode, running.returncode) == (0, 0, 0), said
    assert "ready" in status.stdout
    assert [key["name"] for key in json.loads(keys.stdout)] == ["demo"]
    assert shown["api_key"] not in keys.stdout
    assert answer.stdout == "The capital of France is Paris.\n"
    assert_nothing_is_left(root)


def has_logged(log: Path, words: str) -> bool:
    return log.exists() and words in log.read_text()


# What the disk shows when each stage of the demo has begun.
STAGES: dict[str, Callable[[Path], bool]] = {
    "empty home": lambda root: root.is_dir(),
    "coordinator": lambda root: (root / "run" / "admin.sock").exists(),
    "first node": lambda root: (root / "nodes" / "node-1" / "identity" / "cert.pem").exists(),
    "second node": lambda root: (root / "nodes" / "node-2" / "run" / "tunnel.sock").exists(),
    "model": lambda root: has_logged(root / "logs" / "coordinator.log", "is loading"),
}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("stage", STAGES)
def test_the_demo_can_be_stopped_at_any_moment(root: Path, stage: str, number: signal.Signals) -> None:
    with demo(root) as running:
        wait_until(lambda: STAGES[stage](root) or running.poll() is not None, stage)
        running.send_signal(number)
        _, said = running.communicate(timeout=LIMIT_S)

    assert running.returncode == 130, said
    assert "Traceback" not in said
    assert_nothing_is_left(root)


def test_a_killed_demo_takes_its_processes_along_and_its_remains_are_cleared_by_the_next(root: Path) -> None:
    with demo(root, "--keep", "--json") as running:
        assert running.stdout is not None
        assert running.stdout.readline() == "{\n"
        family = psutil.Process(running.pid).children(recursive=True)
        running.kill()
        running.wait()
    gone, alive = psutil.wait_procs(family, timeout=20)

    assert alive == []
    assert len(gone) > 6
    assert root.exists()
    assert run_cli(root, "demo", "--json").returncode == 0
    assert_nothing_is_left(root)


def test_the_demo_does_not_touch_a_directory_that_holds_something_else(root: Path) -> None:
    root.mkdir(mode=0o700)
    (root / "thesis.txt").write_text("forty pages")

    refused = run_cli(root, "demo")

    assert refused.returncode == 1
    assert "is not empty" in refused.stderr
    assert (root / "thesis.txt").read_text() == "forty pages"
