"""What a person types is taken as meant or refused in one line; what is printed is what was said, to the letter."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

import click
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from rpcmesh import __version__
from rpcmesh import words as words_of_people
from rpcmesh.cli import output, status
from rpcmesh.cli.duration import DURATION
from rpcmesh.cli.main import cli
from rpcmesh.coordinator.report import ModelReport, NodeReport, StatusReport
from rpcmesh.engine.messages import DeviceLayers


def rpcmesh(home: Path, *argv: str, stdout: int | TextIO = subprocess.PIPE) -> subprocess.CompletedProcess[str]:
    """Run the installed command, as a person would."""
    return subprocess.run(
        [Path(sys.executable).parent / "rpcmesh", *argv],
        env={**os.environ, "RPCMESH_HOME": str(home)},
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        timeout=60,
        check=False,
    )


def words(argv: object) -> str:
    """The id of a row whose first column is a command line."""
    return " ".join(argv) if isinstance(argv, list | tuple) else ""


def verbs(command: click.Command, *path: str) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """Every verb and verb group, with the words that lead to it."""
    yield path, command
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            below = command.get_command(context, name)
            assert below is not None
            yield from verbs(below, *path, name)


VERBS = list(verbs(cli))


@pytest.mark.parametrize("path", [path for path, _ in VERBS], ids=words)
def test_every_verb_names_itself_and_says_a_sentence(path: tuple[str, ...]) -> None:
    asked = CliRunner().invoke(cli, [*path, "--help"], prog_name="rpcmesh")
    assert asked.exit_code == 0
    usage, _, text = asked.output.partition("\n\n")
    assert usage.startswith(" ".join(["Usage: rpcmesh", *path, "[OPTIONS]"]))
    sentence = text.strip().split("\n\n")[0]
    assert sentence[0].isupper()
    assert sentence.endswith(".")


@pytest.mark.parametrize(
    ("path", "name"),
    [(path, option.name) for path, verb in VERBS for option in verb.params if isinstance(option, click.Option)],
)
def test_every_option_says_what_it_is_for(path: tuple[str, ...], name: str) -> None:
    undescribed = {("chat", "max_tokens"), ("chat", "temperature")}  # their names and ranges say it
    option = next(option for found, verb in VERBS if found == path for option in verb.params if option.name == name)
    assert isinstance(option, click.Option)
    assert option.help or (path[-1], name) in undescribed


def test_the_version_is_the_packages(tmp_path: Path) -> None:
    asked = rpcmesh(tmp_path / "home", "--version")
    assert (asked.returncode, asked.stdout) == (0, f"rpcmesh, version {__version__}\n")


@pytest.mark.parametrize(
    ("argv", "named"),
    [
        (["nosuch"], "nosuch"),
        (["token", "nosuch"], "nosuch"),
        (["status", "--nosuch"], "--nosuch"),
        (["demo", "--nodes", "0"], "--nodes"),
        (["demo", "--nodes", "two"], "--nodes"),
        (["build", "--backend", "abacus"], "--backend"),
        (["chat", "--temperature", "3", "hello"], "--temperature"),
        (["chat", "--max-tokens", "0", "hello"], "--max-tokens"),
        (["node", "revoke"], "NAME"),
        (["node", "drain"], "NAME"),
        (["model", "load"], "NAME"),
        (["join"], "STRING"),
        (["init", "--listen"], "--listen"),
    ],
    ids=words,
)
def test_wrong_usage_exits_2_and_names_what_is_wrong(tmp_path: Path, argv: list[str], named: str) -> None:
    refused = rpcmesh(tmp_path / "home", *argv)
    assert refused.returncode == 2
    assert named in refused.stderr.splitlines()[-1]
    assert refused.stdout == ""
    assert not (tmp_path / "home").exists()


@pytest.mark.parametrize(
    "argv",
    [["status"], ["token", "create"], ["key", "ls"], ["serve"], ["node", "ls"]],
    ids=words,
)
def test_a_verb_that_cannot_work_here_says_one_line_and_a_hint(tmp_path: Path, argv: list[str]) -> None:
    refused = rpcmesh(tmp_path / "home", *argv)
    assert refused.returncode == 1
    said = refused.stderr.splitlines()
    assert [line.partition(":")[0] for line in said] == ["error", "hint"]
    assert refused.stdout == ""


def test_a_key_that_the_configuration_does_not_have_is_named(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text("[engine]\nmodle = 'tiny'\n")
    refused = rpcmesh(tmp_path, "build")
    assert refused.returncode == 1
    assert "modle" in refused.stderr
    assert "Traceback" not in refused.stderr


def test_no_model_yet_is_an_empty_json_list(tmp_path: Path) -> None:
    listed = rpcmesh(tmp_path / "home", "model", "ls", "--json")
    assert (listed.returncode, json.loads(listed.stdout), listed.stderr) == (0, [], "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
@pytest.mark.parametrize("argv", [["--help"], ["model", "ls"]], ids=words)
def test_an_output_that_cannot_be_written_is_no_bug_of_ours(tmp_path: Path, argv: list[str]) -> None:
    with Path("/dev/full").open("w") as full:
        ended = rpcmesh(tmp_path / "home", *argv, stdout=full)
    assert ended.returncode == 1
    assert "No space left on device" in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize("argv", [["--help"], ["model", "ls"], ["model", "ls", "--json"]], ids=words)
def test_a_reader_that_went_away_ends_the_verb_quietly(tmp_path: Path, argv: list[str]) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as broken:
        ended = rpcmesh(tmp_path / "home", *argv, stdout=broken)
    assert (ended.returncode, ended.stderr) == (1, "")


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("1s", 1), ("90s", 90), ("10m", 600), ("2h", 7200), ("1d", 86400), ("30d", 2592000), ("999999s", 999999)],
)
def test_a_duration(text: str, seconds: float) -> None:
    assert DURATION.convert(text, None, None) == seconds


@pytest.mark.parametrize(
    "text",
    [
        *("", "10", "m", "0s", "-5m", "+5m", "1.5h", "010m", " 10m", "10m ", "10m\n", "10 m", "10M", "1w", "1h30m"),
        *("٣m", "1000000s", "9" * 400 + "d", "1e3s"),
    ],
)
def test_what_is_not_a_duration_is_quoted(text: str) -> None:
    with pytest.raises(click.BadParameter) as caught:
        DURATION.convert(text, None, None)
    assert caught.value.message == f"{text!r} is not a duration: write 90s, 10m, 2h or 1d"


@pytest.mark.parametrize(
    ("layers", "text"),
    [
        ((), "-"),
        ((4,), "4"),
        ((0, 1), "0-1"),
        ((0, 1, 2, 5), "0-2,5"),
        ((5, 2, 1, 0), "0-2,5"),
        ((0, 2, 4), "0,2,4"),
        ((8, 9, 10, 11), "8-11"),
    ],
)
def test_layers_are_shown_as_ranges(layers: tuple[int, ...], text: str) -> None:
    assert status.layer_range(layers) == text


@given(st.sets(st.integers(0, 200)))
def test_a_range_holds_its_layers_and_no_others(layers: set[int]) -> None:
    shown: set[int] = set()
    for part in status.layer_range(tuple(layers)).split(","):
        if part != "-":
            first, _, last = part.partition("-")
            shown |= set(range(int(first), int(last or first) + 1))
    assert shown == layers


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (59.9, "59 s"),
        (60, "1 min"),
        (90, "1 min"),
        (3599, "59 min"),
        (3600, "1 h"),
        (86399, "23 h"),
        (86400, "1 d"),
        (10 * 86400, "10 d"),
    ],
)
def test_a_time_span_is_one_unit_rounded_down(seconds: float, text: str) -> None:
    assert words_of_people.span(seconds) == text


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("plain\tand\nsimple", "plain\tand\nsimple"),
        ("\x1b]0;owned\x07\x1b[2Jcleared", "]0;owned[2Jcleared"),
        ("\x9b31mred\x7f\r", "31mred"),
        ("é 👩\u200d💻 日本", "é 👩\u200d💻 日本"),
    ],
)
def test_what_others_say_does_not_command_the_terminal(said: str, shown: str) -> None:
    assert output.plain(said) == shown


@pytest.mark.parametrize(
    ("size_bytes", "text"),
    [
        (0, "0 KiB"),
        (2047, "2 KiB"),
        (2**20, "1 MiB"),
        (98362432, "94 MiB"),
        (2**30, "1024 MiB"),
        (10 * 2**30, "10.0 GiB"),
        (75 * 2**30, "75.0 GiB"),
    ],
)
def test_a_size(size_bytes: int, text: str) -> None:
    assert words_of_people.size(size_bytes) == text


PLACED = (
    DeviceLayers("a", "w0", "RPC0", (0, 1, 2), output=False, weight_bytes=3),
    DeviceLayers("b", "w0", "RPC1", (), output=False, weight_bytes=0),
    DeviceLayers(None, None, "CPU", (3,), output=True, weight_bytes=1),
)


@pytest.mark.parametrize(
    ("model", "line"),
    [
        (ModelReport("", "none", "", 0.0, 0, ()), "model  none chosen: rpcmesh serve --model NAME"),
        (ModelReport("tiny", "waiting", "", 0.0, 0, ()), "model tiny  waiting"),
        (ModelReport("tiny", "waiting", "node a left", 0.0, 0, ()), "model tiny  waiting  (node a left)"),
        (ModelReport("tiny", "loading", "", 0.256, 0, ()), "model tiny  loading 26%"),
        (ModelReport("tiny", "ready", "", 1.0, 512, PLACED), "model tiny  ready  layers a: 0-2, here: 3"),
        (ModelReport("tiny", "failed", "no memory", 0.0, 0, ()), "model tiny  failed  (no memory)"),
    ],
    ids=lambda value: value.state if isinstance(value, ModelReport) else "",
)
def test_the_model_in_one_line(model: ModelReport, line: str) -> None:
    assert status.model_line(model) == line


def shown(capsys: pytest.CaptureFixture[str], *, ready: bool) -> str:
    node = NodeReport("a", "[fd00:a:1::1]:7443", "down", "it said [/no] :smile:", None)
    status.show(
        StatusReport(
            mesh="home",
            version="1",
            build_id="b1",
            endpoint="https://[fd00:a:1::2]:8443/v1",
            uptime_s=61,
            ready=ready,
            reason=None if ready else "loading",
            model=ModelReport("tiny", "failed", "[bold] is no tensor", 0.0, 0, ()),
            nodes=(node,),
            links=(),
        )
    )
    return capsys.readouterr().out


def test_the_first_line_gives_the_verdict(capsys: pytest.CaptureFixture[str]) -> None:
    first = shown(capsys, ready=True).splitlines()[0]
    assert first == "mesh home  ready  https://[fd00:a:1::2]:8443/v1  build b1  up 1 min"


def test_a_mesh_that_is_not_ready_says_why(capsys: pytest.CaptureFixture[str]) -> None:
    first = shown(capsys, ready=False).splitlines()[0]
    assert first == "mesh home  not ready: loading  https://[fd00:a:1::2]:8443/v1  build b1  up 1 min"


def test_brackets_and_colons_are_printed_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    """IPv6 addresses and what others said would be swallowed, or worse, if they were read as markup."""
    text = " ".join(shown(capsys, ready=True).split())
    for part in ("[bold] is no tensor", "[fd00:a:1::1]:7443", "[/no]", ":smile:"):
        assert part in text


def test_an_error_and_its_hint_go_to_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    output.print_error("'[x]:1' is not an address", "write HOST:PORT")
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "error: '[x]:1' is not an address\nhint:  write HOST:PORT\n")


def test_a_table_without_rows_is_a_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    output.print_table(("A", "B"), [], empty="nothing yet")
    assert capsys.readouterr().out == "nothing yet\n"


def test_json_is_one_document_and_no_more(capsys: pytest.CaptureFixture[str]) -> None:
    output.print_json({"name": "é", "sizes": (1, 2)})
    assert json.loads(capsys.readouterr().out) == {"name": "é", "sizes": [1, 2]}
