"""A supervised service, with a real program: ready, restarted, given up, reloaded, stopped."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import socket
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import psutil
import pytest
import structlog
from process_probe import alive, kill, python, shell, until, until_gone

from rpcmesh.errors import RpcmeshError
from rpcmesh.supervise import restart
from rpcmesh.supervise.child import Exit
from rpcmesh.supervise.supervisor import Ended, Hooks, Service, Snapshot, State, Supervisor

# Notes its start in the file "starts", waits while there is a file "hold", and then listens on its socket. It leaves
# the socket behind, as a program does that was killed.
SERVER = """
import pathlib, signal, socket, sys, time
home = pathlib.Path(sys.argv[1])
signal.signal(signal.SIGHUP, lambda *_: print("reloaded", flush=True))
with (home / "starts").open("a") as starts:
    print("start", file=starts)
print("up", flush=True)
while (home / "hold").exists():
    time.sleep(0.005)
listening = socket.socket(socket.AF_UNIX)
listening.bind(str(home / "s.sock"))
listening.listen()
while True:
    signal.pause()
"""
NO_HOOKS = Hooks()
NOTED_FAILURE = 'echo start >> "$0/starts"; exit 3'


@pytest.fixture
def home() -> Iterator[Path]:
    """Short enough for the path of a socket."""
    path = Path(tempfile.mkdtemp(prefix="rm-", dir="/tmp"))
    yield path
    shutil.rmtree(path)


def server(home: Path, prepare: Callable[[], None] = lambda: None) -> Service:
    return Service(name="probe", argv=python(SERVER, str(home)), env={}, socket=home / "s.sock", prepare=prepare)


def starts(home: Path) -> int:
    return len((home / "starts").read_text().splitlines()) if (home / "starts").exists() else 0


@contextlib.asynccontextmanager
async def supervised(
    service: Service, on_change: Callable[[Snapshot], None] = lambda _: None, hooks: Hooks = NO_HOOKS
) -> AsyncIterator[tuple[Supervisor, asyncio.Task[None]]]:
    supervisor = Supervisor(service, on_change, hooks)
    async with asyncio.TaskGroup() as group:
        running = group.create_task(supervisor.run())
        try:
            yield supervisor, running
        finally:
            running.cancel()


async def test_it_is_ready_when_its_socket_is_there(home: Path) -> None:
    (home / "hold").touch()
    async with supervised(server(home)) as (supervisor, _):
        await until(lambda: supervisor.first_lines == ("up",))
        assert supervisor.snapshot.state is State.STARTING
        (home / "hold").unlink()
        await supervisor.until_ready()
        seen = supervisor.snapshot
        assert seen.pid is not None
        assert seen == Snapshot(name="probe", state=State.READY, pid=seen.pid)
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(home / "s.sock"))


async def test_without_a_socket_it_is_ready_as_soon_as_it_runs() -> None:
    async with supervised(Service(name="probe", argv=("/bin/sleep", "300"), env={})) as (supervisor, _):
        await supervisor.until_ready()
        assert supervisor.snapshot.pid is not None
        assert alive(supervisor.snapshot.pid)


async def test_a_killed_service_is_started_again(home: Path) -> None:
    async with supervised(server(home)) as (supervisor, _):
        await supervisor.until_ready()
        first = supervisor.snapshot.pid
        assert first is not None
        kill(first)
        await until(lambda: supervisor.snapshot.restarts == 1)
        await supervisor.until_ready()
        second = supervisor.snapshot.pid
        assert second not in (None, first)
        assert supervisor.snapshot == Snapshot(
            name="probe", state=State.READY, pid=second, restarts=1, last_exit="killed by SIGKILL"
        )
        assert starts(home) == 2


async def test_every_change_is_told_in_order(home: Path) -> None:
    told: list[Snapshot] = []
    async with supervised(server(home), told.append) as (supervisor, _):
        await supervisor.until_ready()
        kill(supervisor.snapshot.pid or 0)
        await until(lambda: supervisor.snapshot.restarts == 1)
        await supervisor.until_ready()
    once = [(State.STARTING, False), (State.STARTING, True), (State.READY, True)]
    assert [(snapshot.state, snapshot.pid is not None) for snapshot in told] == [
        *once,
        (State.BACKOFF, False),
        *once,
        (State.STOPPED, False),
    ]


async def test_a_reset_is_an_end_that_is_known_as_ours(home: Path) -> None:
    ends: list[Ended] = []
    with structlog.testing.capture_logs() as logged:
        async with supervised(server(home), hooks=Hooks(on_ended=ends.append)) as (supervisor, _):
            await supervisor.until_ready()
            first = supervisor.snapshot.pid
            supervisor.reset("it was stuck")
            await until(lambda: supervisor.snapshot.restarts == 1)
            await supervisor.until_ready()
            assert supervisor.snapshot.pid != first
            kill(supervisor.snapshot.pid or 0)
            await until(lambda: supervisor.snapshot.restarts == 2)
            await supervisor.until_ready()
    killed = Exit(signal_name="SIGKILL")
    assert ends == [Ended(killed, ("up",), reset="it was stuck"), Ended(killed, ("up",))]
    said = [(entry["event"], entry.get("reason")) for entry in logged if entry["log_level"] == "warning"]
    assert said == [("service_reset", "it was stuck"), ("service_ended", None)]


async def test_a_service_that_is_reset_again_and_again_is_never_given_up(home: Path) -> None:
    async with supervised(server(home)) as (supervisor, _):
        for number in range(restart.LOOP_EXITS + 2):
            await supervisor.until_ready()
            supervisor.reset("again")
            await until(lambda number=number: supervisor.snapshot.restarts == number + 1)
        await supervisor.until_ready()
    assert starts(home) == restart.LOOP_EXITS + 3


async def test_a_reset_ends_the_whole_group() -> None:
    service = Service(name="probe", argv=shell("sleep 300 & echo $!; wait"), env={"PATH": "/usr/bin:/bin"})
    async with supervised(service) as (supervisor, _):
        await until(lambda: supervisor.first_lines)
        grandchild = int(supervisor.first_lines[0])
        supervisor.reset("all of it")
        await until_gone(grandchild)


async def test_a_reset_of_what_does_not_run_is_nothing(home: Path) -> None:
    supervisor = Supervisor(server(home))
    supervisor.reset("nothing there")
    assert supervisor.snapshot.state is State.STOPPED


async def test_it_is_told_how_long_the_service_was_away(home: Path) -> None:
    away: list[float | None] = []
    async with supervised(server(home), hooks=Hooks(on_ready=away.append)) as (supervisor, _):
        await supervisor.until_ready()
        (home / "hold").touch()
        kill(supervisor.snapshot.pid or 0)
        await until(lambda: starts(home) == 2)
        held_at = time.monotonic()
        await asyncio.sleep(0.3)
        held_s = time.monotonic() - held_at
        (home / "hold").unlink()
        await until(lambda: len(away) == 2)
    assert away[0] is None
    assert away[1] is not None
    assert away[1] >= held_s


async def test_the_last_end_of_a_service_that_is_given_up_is_final() -> None:
    ends: list[Ended] = []
    service = Service(name="probe", argv=shell("echo why; exit 3"), env={})
    async with supervised(service, hooks=Hooks(on_ended=ends.append)) as (_, running):
        await asyncio.wait_for(running, 60)
    assert ends == [Ended(Exit(code=3), ("why",), final=number == restart.LOOP_EXITS) for number in range(1, 9)]


async def test_events_in_its_output_are_told_with_all_their_fields() -> None:
    told: list[dict[str, object]] = []
    code = "import sys; print(*sys.argv[1:], sep='\\n')"
    said = ('{"event": "lost", "level": "error", "session": 1}', "plain", '{"ops": {"ADD": 2}}')
    hooks = Hooks(on_event=lambda fields: told.append(dict(fields)))
    async with supervised(Service(name="probe", argv=python(code, *said), env={}), hooks=hooks) as (supervisor, _):
        await until(lambda: supervisor.snapshot.restarts)
    assert told[:2] == [{"event": "lost", "level": "error", "session": 1}, {"ops": {"ADD": 2}}]


async def assert_waits_for_its_own_socket(supervisor: Supervisor, home: Path, start: int) -> None:
    await until(lambda: supervisor.first_lines == ("up",) and starts(home) == start)
    with pytest.raises(RpcmeshError, match="not ready"):
        await supervisor.until_ready(limit_s=0.2)
    assert supervisor.snapshot.state is State.STARTING
    (home / "hold").unlink()
    await supervisor.until_ready()


async def test_the_socket_of_a_killed_predecessor_is_not_taken_for_ready(home: Path) -> None:
    async with supervised(server(home)) as (supervisor, _):
        await supervisor.until_ready()
        (home / "hold").touch()
        kill(supervisor.snapshot.pid or 0)
        await assert_waits_for_its_own_socket(supervisor, home, start=2)


async def test_the_socket_of_an_earlier_supervisor_is_not_taken_for_ready(home: Path) -> None:
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(home / "s.sock"))
    (home / "hold").touch()
    async with supervised(server(home)) as (supervisor, _):
        await assert_waits_for_its_own_socket(supervisor, home, start=1)


async def test_a_service_that_is_never_ready_is_one_line(home: Path) -> None:
    (home / "hold").touch()
    async with supervised(server(home)) as (supervisor, _):
        with pytest.raises(RpcmeshError) as caught:
            await supervisor.until_ready(limit_s=1)
        assert caught.value.message == "probe was not ready within 1 s"


async def test_a_service_that_always_fails_is_given_up_and_who_waits_is_told(home: Path) -> None:
    service = Service(name="probe", argv=(*shell(NOTED_FAILURE), str(home)), env={}, socket=home / "s.sock")
    async with supervised(service) as (supervisor, running):
        with pytest.raises(RpcmeshError) as caught:
            await supervisor.until_ready(limit_s=60)
        assert caught.value.message == "probe cannot run: exit status 3"
        await asyncio.wait_for(running, 10)
    assert supervisor.snapshot.state is State.GIVEN_UP
    assert (supervisor.snapshot.pid, supervisor.snapshot.last_exit) == (None, "exit status 3")
    assert starts(home) == restart.LOOP_EXITS


async def test_an_end_without_an_error_is_an_end_too() -> None:
    async with supervised(Service(name="probe", argv=shell("exit 0"), env={})) as (supervisor, _):
        await until(lambda: supervisor.snapshot.restarts >= 2)
        assert supervisor.snapshot.last_exit == "exit status 0"


async def test_a_fatal_exit_is_raised_and_not_retried(home: Path) -> None:
    fault = RpcmeshError("the port is taken", hint="choose another")
    service = Service(name="probe", argv=(*shell(NOTED_FAILURE), str(home)), env={}, fatal={3: fault})
    supervisor = Supervisor(service)
    with pytest.raises(RpcmeshError) as caught:
        await asyncio.wait_for(supervisor.run(), 20)
    assert caught.value is fault
    assert starts(home) == 1
    assert supervisor.snapshot.state is State.STOPPED


async def test_a_program_that_cannot_be_run_is_raised_and_not_retried(home: Path) -> None:
    supervisor = Supervisor(Service(name="probe", argv=(str(home / "missing"),), env={}))
    with pytest.raises(RpcmeshError, match=r"^cannot start probe: '.*missing': No such file or directory$"):
        await asyncio.wait_for(supervisor.run(), 20)
    assert supervisor.snapshot == Snapshot(name="probe", state=State.STOPPED)


async def test_what_prepare_refuses_does_not_start(home: Path) -> None:
    def refuse() -> None:
        raise RpcmeshError("the worker was changed since it was built", hint="rpcmesh build")

    supervisor = Supervisor(server(home, prepare=refuse))
    with pytest.raises(RpcmeshError, match="changed since it was built"):
        await asyncio.wait_for(supervisor.run(), 20)
    assert starts(home) == 0
    assert supervisor.snapshot.state is State.STOPPED


async def test_prepare_runs_before_each_start_and_stops_a_restart_too(home: Path) -> None:
    prepared: list[int] = []

    def prepare() -> None:
        prepared.append(starts(home))
        if len(prepared) == 3:
            raise RpcmeshError("no third time")

    service = Service(name="probe", argv=(*shell(NOTED_FAILURE), str(home)), env={}, prepare=prepare)
    with pytest.raises(RpcmeshError, match="no third time"):
        await asyncio.wait_for(Supervisor(service).run(), 20)
    assert prepared == [0, 1, 2]


async def test_reload_is_a_hangup(home: Path) -> None:
    async with supervised(server(home)) as (supervisor, _):
        await supervisor.until_ready()
        before = supervisor.snapshot
        supervisor.reload()
        await until(lambda: supervisor.first_lines == ("up", "reloaded"))
        assert supervisor.snapshot == before


# Reads its file, and again at each hangup. A shell has done so long before its supervisor hears that it was started.
READER = """
trap 'cat "$0/file"' HUP
cat "$0/file"
: > "$0/read"
while :; do sleep 0.02; done
"""


def test_a_reload_is_not_lost_while_the_service_starts(home: Path) -> None:
    (home / "file").write_text("old\n")
    service = Service(name="probe", argv=(*shell(READER), str(home)), env={"PATH": "/usr/bin:/bin"})

    async def ask_while_it_starts() -> None:
        async with supervised(service) as (supervisor, _):
            while not psutil.Process().children():
                await one_turn_of_the_loop()
            # The event loop stands still until the reload is asked for: nobody has heard yet that the program runs.
            wait_blocking((home / "read").exists)
            assert supervisor.snapshot.pid is None
            (home / "file").write_text("new\n")
            supervisor.reload()
            await until(lambda: supervisor.first_lines == ("old", "new"))
            assert supervisor.snapshot.restarts == 0

    asyncio.run(ask_while_it_starts())


async def one_turn_of_the_loop() -> None:
    await asyncio.sleep(0)


def wait_blocking(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


async def test_a_reload_waits_for_a_service_that_is_not_ready(home: Path) -> None:
    (home / "hold").touch()
    async with supervised(server(home)) as (supervisor, _):
        await until(lambda: supervisor.first_lines == ("up",))
        supervisor.reload()
        (home / "hold").unlink()
        await until(lambda: supervisor.first_lines == ("up", "reloaded"))
        assert supervisor.snapshot.restarts == 0


async def test_reload_of_what_does_not_run_is_nothing(home: Path) -> None:
    supervisor = Supervisor(server(home))
    supervisor.reload()
    assert supervisor.snapshot.state is State.STOPPED


async def test_cancelling_stops_the_process(home: Path) -> None:
    async with supervised(server(home)) as (supervisor, _):
        await supervisor.until_ready()
        pid = supervisor.snapshot.pid
        assert pid is not None
    await until_gone(pid)
    assert supervisor.snapshot == Snapshot(name="probe", state=State.STOPPED)
    assert supervisor.first_lines == ()


async def test_cancelling_kills_what_does_not_end_within_its_grace() -> None:
    deaf = Service(name="probe", argv=shell("trap '' TERM; while :; do sleep 0.05; done"), env={}, grace_s=0.2)
    async with supervised(deaf) as (supervisor, _):
        await supervisor.until_ready()
        pid = supervisor.snapshot.pid
        assert pid is not None
    await until_gone(pid)


async def test_cancelling_does_not_wait_for_a_restart_that_is_due(home: Path) -> None:
    service = Service(name="probe", argv=(*shell(NOTED_FAILURE), str(home)), env={})
    async with supervised(service) as (supervisor, _):
        await until(lambda: supervisor.snapshot.restarts >= 4 and supervisor.snapshot.state is State.BACKOFF)
    assert supervisor.snapshot.state is State.STOPPED
    assert starts(home) == supervisor.snapshot.restarts


async def test_its_output_is_logged_and_lines_of_json_keep_their_fields() -> None:
    deep = '{"a": ' + "[" * 5000
    said = [
        '{"event": "accepted", "level": "warning", "peer": "n1", "service": "its own", "ts": 1.5}',
        '{"event": "lost", "level": "error", "self": 1}',
        "plain text",
        "{not json",
        deep,
    ]
    with structlog.testing.capture_logs() as logged:
        code = "import sys; print(*sys.argv[1:], sep='\\n')"
        async with supervised(Service(name="probe", argv=python(code, *said), env={})) as (supervisor, _):
            await until(lambda: supervisor.snapshot.restarts)
    assert [entry for entry in logged if "restart_in_s" not in entry and entry["event"] != "service_ready"][:5] == [
        {"event": "accepted", "log_level": "warning", "peer": "n1", "field_service": "its own", "service": "probe"},
        {"event": "lost", "log_level": "error", "field_self": 1, "service": "probe"},
        {"event": "output", "log_level": "info", "line": "plain text", "service": "probe"},
        {"event": "output", "log_level": "info", "line": "{not json", "service": "probe"},
        {"event": "output", "log_level": "info", "line": deep, "service": "probe"},
    ]
