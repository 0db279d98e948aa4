"""What the error log keeps, and how it is read page by page, across rotations and full disks."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import resource
import signal
import stat
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
import structlog

from rpcmesh.errors import PeerError
from rpcmesh.observe import error_log, logs
from rpcmesh.observe.error_log import KIND_MAX_RECORDS, KIND_WINDOW_S, ErrorLog, Page, Share, page


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / error_log.NAME


@pytest.fixture(autouse=True)
def structlog_as_before() -> Iterator[None]:
    yield
    structlog.reset_defaults()


def numbers(read: Page) -> list[int]:
    return [record["n"] for record in records(read)]


def records(read: Page) -> list[dict[str, object]]:
    return [json.loads(bytes(record)) for record in read.records]


def filled(path: Path, count: int, rotate_bytes: int = error_log.ROTATE_BYTES) -> ErrorLog:
    log = ErrorLog(path, rotate_bytes)
    for n in range(count):
        log.append({"event": "e", "n": n})
    return log


def test_of_one_kind_of_event_only_so_many_are_kept_and_the_next_says_how_many_there_were() -> None:
    share = Share()

    first = [share.of("handshake_failed", now=float(n)) for n in range(30)]
    others = share.of("worker_crashed", now=30.0)
    later = [share.of("handshake_failed", now=KIND_WINDOW_S + n) for n in range(2)]

    assert first == [0] * KIND_MAX_RECORDS + [None] * 10
    assert others == 0
    assert later == [10, 0]


def test_strangers_do_not_push_a_crash_out(path: Path) -> None:
    now = 0.0
    log = ErrorLog(path, clock=lambda: now)
    log.processor(None, "error", {"level": "error", "event": "worker_crashed"})
    for _ in range(1000):
        log.processor(None, "warning", {"level": "warning", "event": "handshake_failed"})
    now = KIND_WINDOW_S
    log.processor(None, "warning", {"level": "warning", "event": "handshake_failed"})

    kept = records(page(path))

    assert [record["event"] for record in kept] == ["worker_crashed"] + ["handshake_failed"] * (KIND_MAX_RECORDS + 1)
    assert kept[-1]["left_out"] == 1000 - KIND_MAX_RECORDS


def test_an_absent_log_is_an_empty_page(path: Path) -> None:
    assert page(path) == Page((), 0)
    assert page(path, after=7) == Page((), 0)


def test_a_file_is_its_owners_alone_also_where_it_was_not(path: Path) -> None:
    path.touch(0o644)
    filled(path, 300, rotate_bytes=4096)
    modes = [stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()]
    assert modes == [0o600, 0o600]


def test_the_last_ones_come_oldest_first(path: Path) -> None:
    filled(path, 10)
    assert numbers(page(path, last=3)) == [7, 8, 9]
    assert numbers(page(path, last=0)) == []
    assert page(path, last=0).position == page(path, last=3).position


def test_a_reader_goes_on_where_it_was(path: Path) -> None:
    log = filled(path, 3)
    first = page(path)
    assert page(path, after=first.position) == Page((), first.position)
    log.append({"event": "e", "n": 99})
    assert numbers(page(path, after=first.position)) == [99]


def test_a_place_holds_across_a_rotation_and_a_new_start(path: Path) -> None:
    log = filled(path, 50, rotate_bytes=4096)
    position = page(path, last=0).position
    while not path.with_name(path.name + ".1").exists():
        log.append({"event": "e", "n": 100})
    again = ErrorLog(path, 4096)
    again.append({"event": "e", "n": 101})
    behind = numbers(page(path, after=position))
    assert behind[-1] == 101
    assert set(behind[:-1]) == {100}


def test_both_files_together_are_bounded_and_the_newest_records_are_there(path: Path) -> None:
    filled(path, 2000, rotate_bytes=8192)
    assert sorted(file.name for file in path.parent.iterdir()) == [error_log.NAME, f"{error_log.NAME}.1"]
    assert sum(file.stat().st_size for file in path.parent.iterdir()) <= 2 * 8192
    assert numbers(page(path, last=1)) == [1999]


def test_what_a_reader_was_too_slow_for_is_skipped_not_repeated(path: Path) -> None:
    log = filled(path, 10, rotate_bytes=4096)
    position = page(path, last=0).position
    for n in range(10, 2000):
        log.append({"event": "e", "n": n})
    behind = numbers(page(path, after=position))
    assert behind == list(range(behind[0], 2000))[: len(behind)]
    assert behind[0] > 10


def test_a_place_in_a_log_that_was_removed_begins_anew(path: Path) -> None:
    filled(path, 10)
    position = page(path).position
    path.unlink()
    filled(path, 2)
    assert numbers(page(path, after=position)) == [0, 1]


def test_pages_are_bounded_and_lead_to_the_end(path: Path) -> None:
    filled(path, 2 * error_log.PAGE_RECORDS + 1)
    seen: list[int] = []
    read = page(path, after=0)
    seen += numbers(read)
    while read.more:
        assert len(read.records) <= error_log.PAGE_RECORDS
        read = page(path, after=read.position)
        seen += numbers(read)
    assert seen == list(range(2 * error_log.PAGE_RECORDS + 1))


def test_a_page_of_large_records_is_bounded_in_bytes(path: Path) -> None:
    log = ErrorLog(path)
    for n in range(60):
        log.append({"event": "e", "n": n, "output": "x" * 15_000})
    read = page(path, after=0)
    assert sum(len(bytes(record)) for record in read.records) <= error_log.PAGE_BYTES
    assert read.more
    assert numbers(page(path))[-1] == 59


def test_a_huge_record_is_cut_down_to_what_it_was(path: Path) -> None:
    ErrorLog(path).append({"event": "e", "level": "error", "ts": "t", "output": "x" * 100_000})
    (record,) = records(page(path))
    assert (record["event"], record["level"], record["ts"]) == ("e", "error", "t")
    assert "output" not in record


def test_a_line_that_was_cut_off_costs_itself_alone(path: Path) -> None:
    filled(path, 2)
    with path.open("ab") as file:
        file.write(b'{"seq":3,"n":2,"ou\n{"seq":4,"n":3}\nnull\n[]\n')
    assert numbers(page(path)) == [0, 1, 3]


@contextlib.contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """As on a disk that is full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


def test_a_full_disk_costs_records_and_the_events_go_on(path: Path) -> None:
    log = ErrorLog(path)

    def processed(name: str) -> dict[str, object]:
        return dict(log.processor(None, "error", {"event": name, "level": "error"}))

    processed("first")
    with files_of_at_most(path.stat().st_size + 20):
        second = processed("second")
    third = processed("third")
    assert str(second.pop("error_log")).startswith("not written: ")
    assert [second, third] == [{"event": name, "level": "error"} for name in ("second", "third")]
    assert [record["event"] for record in records(page(path))] == ["first", "third"]


@pytest.mark.parametrize("level", ["debug", "info", "warning", "error"])
def test_warnings_and_errors_are_kept_whatever_is_printed(
    path: Path, level: str, capfd: pytest.CaptureFixture[str]
) -> None:
    logs.configure(level, "json", path)
    log = structlog.get_logger().bind(node="n1")
    for name in ("debug", "info", "warning", "error"):
        getattr(log, name)(f"a_{name}", n=1)
    kept = records(page(path))
    assert [(record["event"], record["level"], record["node"]) for record in kept] == [
        ("a_warning", "warning", "n1"),
        ("a_error", "error", "n1"),
    ]
    names = ["debug", "info", "warning", "error"]
    printed = [json.loads(line)["event"] for line in capfd.readouterr().err.splitlines()]
    assert printed == [f"a_{name}" for name in names[names.index(level) :]]


@pytest.mark.parametrize("style", ["json", "console"])
def test_an_exception_is_told_without_the_values_of_its_variables(
    path: Path, style: str, capfd: pytest.CaptureFixture[str]
) -> None:
    logs.configure("info", style, path)  # type: ignore[arg-type]
    fail_with("s3cret-value")
    (record,) = records(page(path))
    assert "ZeroDivisionError" in str(record["exception"])
    assert "fail_with" in str(record["exception"])
    printed = capfd.readouterr().err
    assert "ZeroDivisionError" in printed
    assert "s3cret" not in printed + path.read_text()


def fail_with(held: str) -> None:
    try:
        len(held) // 0
    except ZeroDivisionError:
        structlog.get_logger().exception("failed")


def test_what_is_no_json_is_kept_as_text(path: Path) -> None:
    ErrorLog(path).append({"event": "e", "where": Path("/x"), "what": (1, 2), "it": object})
    (record,) = records(page(path))
    assert (record["where"], record["what"]) == ("/x", [1, 2])


def test_a_log_that_cannot_be_opened_keeps_nobody_from_starting(path: Path) -> None:
    path.mkdir()
    event = ErrorLog(path).processor(None, "error", {"event": "e", "level": "error"})
    assert str(event["error_log"]).startswith("not written: ")


def test_a_link_in_its_place_is_not_followed(path: Path, tmp_path: Path) -> None:
    target = tmp_path / "elsewhere"
    target.touch(0o600)
    path.symlink_to(target)
    with pytest.raises(OSError, match=os.strerror(errno.ELOOP)):
        ErrorLog(path).append({"event": "e"})
    assert target.read_bytes() == b""


@pytest.mark.parametrize(
    ("asked", "meant"),
    [
        ({}, (None, error_log.PAGE_RECORDS)),
        ({"last": "7"}, (None, 7)),
        ({"after": "12"}, (12, error_log.PAGE_RECORDS)),
    ],
)
def test_a_query_is_a_place_or_a_number(asked: dict[str, str], meant: tuple[int | None, int]) -> None:
    assert error_log.parse_query(asked) == meant
    assert error_log.parse_query(dict([error_log.query(*meant).split("=")])) == meant


@pytest.mark.parametrize(
    "asked", [{"after": "-1"}, {"after": ""}, {"after": "x"}, {"last": "1.5"}, {"after": "9" * 30}, {"what": "1"}]
)
def test_any_other_query_is_refused(asked: dict[str, str]) -> None:
    with pytest.raises(PeerError):
        error_log.parse_query(asked)


def test_a_page_crosses_the_wire_as_it_is(path: Path) -> None:
    filled(path, 2)
    sent = page(path)
    assert msgspec.json.decode(msgspec.json.encode(sent), type=Page) == sent
