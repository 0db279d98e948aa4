"""The macOS profile is well formed, grants what was meant and nothing wide. Only a Mac can say whether it suffices."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from test_sandbox import BUILD

from rpcmesh import paths
from rpcmesh.native_build.manifest import WORKER
from rpcmesh.node import sandbox
from rpcmesh.node.sandbox import Walls

PROFILE = paths.shipped("deploy") / "sandbox" / sandbox.PROFILE
TOKEN = re.compile(r'\s*(?:;[^\n]*|(?P<token>[()]|"[^"\n]*"|[^\s()";]+))')
OPERATIONS = {
    *("file-map-executable", "file-read*", "file-read-metadata"),
    *("file-write-create", "file-write-data", "file-write-mode", "file-write-unlink"),
    *("iokit-get-properties", "iokit-open", "mach-lookup", "network-bind", "network-inbound"),
    *("process-exec", "process-info*", "signal", "sysctl-read", "system-socket"),
}
FILTERS = {
    *("global-name", "iokit-user-client-class", "literal", "local", "socket-domain", "subpath"),
    *("sysctl-name", "sysctl-name-prefix", "target", "xpc-service-name"),
}
# Where a rule without a filter takes nothing away from others: names of files, and properties of devices.
UNFILTERED = {"file-read-metadata", "iokit-get-properties"}
Form = str | list["Form"]


def parse(text: str) -> list[Form]:
    """The forms of ``text``. Fails on a parenthesis or a quote too few or too many."""
    stack: list[list[Form]] = [[]]
    at = 0
    while at < len(text.rstrip()):
        found = TOKEN.match(text, at)
        assert found is not None, f"what is this: {text[at : at + 40]!r}"
        at = found.end()
        match found["token"]:
            case None:
                pass
            case "(":
                stack.append([])
            case ")":
                assert len(stack) > 1, f"a parenthesis too many before {text[at : at + 40]!r}"
                closed = stack.pop()
                stack[-1].append(closed)
            case token:
                stack[-1].append(token)
    assert len(stack) == 1, f"{len(stack) - 1} parentheses are not closed"
    return stack[0]


def rules() -> list[tuple[set[str], list[Form]]]:
    """Of each ``allow``: its operations, and its filters."""
    allowed = [form[1:] for form in parse(PROFILE.read_text()) if form[0] == "allow"]
    return [
        ({part for part in rule if isinstance(part, str)}, [part for part in rule if isinstance(part, list)])
        for rule in allowed
    ]


@pytest.mark.parametrize("broken", ["(version 1", "(version 1))", '(literal "/x)'])
def test_a_profile_that_is_not_well_formed_would_be_noticed(broken: str) -> None:
    with pytest.raises(AssertionError):
        parse(broken)


def test_everything_is_denied_that_is_not_allowed() -> None:
    assert parse(PROFILE.read_text())[:2] == [["version", "1"], ["deny", "default"]]
    assert {str(form[0]) for form in parse(PROFILE.read_text())[2:]} == {"allow"}


def test_only_known_words_are_used() -> None:
    assert {operation for operations, _ in rules() for operation in operations} == OPERATIONS
    assert {str(each[0]) for _, filters in rules() for each in filters} == FILTERS


def test_no_rule_is_without_a_filter() -> None:
    assert {operation for operations, filters in rules() if not filters for operation in operations} == UNFILTERED


def test_nothing_is_written_but_its_own_folder_and_null() -> None:
    writing = [filters for operations, filters in rules() if any(name.startswith("file-write") for name in operations)]
    assert writing == [[["literal", '"/dev/null"']], [["subpath", ["param", '"FOLDER"']]]]


def test_the_network_is_its_own_socket() -> None:
    inside = ["subpath", ["param", '"FOLDER"']]
    network = {name: filters for names, filters in rules() for name in names if name.startswith("network")}
    assert network == {name: [["local", "unix-socket", inside]] for name in ("network-bind", "network-inbound")}


def test_no_folder_with_secrets_is_read() -> None:
    read = [each for operations, filters in rules() if "file-read*" in operations for each in filters]
    literals = {str(each[1]).strip('"') for each in read if isinstance(each[1], str)}
    assert not [path for path in literals if path.startswith(("/Users", "/private/etc", "/etc", "/var", "/Library/K"))]
    assert [each for each in read if each == ["subpath", '"/"']] == []


def test_the_worker_is_started_with_every_parameter(tmp_path: Path) -> None:
    walls = Walls(asked="auto", platform="darwin", backend="metal", memory_mib=1, threads=1)
    argv = sandbox.command(walls, BUILD, tmp_path, "w0.sock", ("-p", "1"))
    at = argv.index(sandbox.SANDBOX_EXEC)
    given = {part.partition("=")[0] for flag, part in zip(argv[at:], argv[at + 1 :], strict=False) if flag == "-D"}
    used = set(re.findall(r'\(param "(\w+)"\)', PROFILE.read_text()))

    assert given == used
    assert argv[at + 1 : at + 3] == ("-f", str(PROFILE))
    assert f'"/{WORKER}"' in PROFILE.read_text()
