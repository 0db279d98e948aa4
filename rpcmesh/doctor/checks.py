"""Every check is a row: a fact, and a pure function from it to what is said. Nothing here looks at anything itself."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Generic, Literal, TypeVar

import msgspec

from rpcmesh.coordinator.report import NodeReport, StatusReport
from rpcmesh.doctor.facts import (
    BuildSeen,
    Disk,
    Entry,
    Facts,
    Leaf,
    Listening,
    MacSettings,
    ModelFile,
    Native,
    NotRunning,
    Unknown,
)
from rpcmesh.node.status import AgentStatus
from rpcmesh.words import size, span

Level = Literal["ok", "warn", "fail"]
T = TypeVar("T")

LEAF_WORN = 0.75
DISK_LOW_BYTES, DISK_FULL_BYTES = 5 * 2**30, 500 * 2**20
FILES_LOW, FILES_TOO_FEW = 1024, 256


class Finding(msgspec.Struct, frozen=True):
    """One row of ``rpcmesh doctor``. ``fix`` is a command, or a sentence when none would do."""

    check: str
    level: Level
    message: str
    fix: str | None = None


class Said(msgspec.Struct, frozen=True):
    """A finding that does not know its check's name yet."""

    level: Level
    message: str
    fix: str | None = None


class Chmod(msgspec.Struct, frozen=True):
    """A repair that is always safe: it takes rights away from others and from nobody else."""

    entry: Entry
    mode: int

    @property
    def command(self) -> str:
        return f"chmod {self.mode:o} {self.entry.path}"


def repairs(facts: Facts) -> tuple[Chmod, ...]:
    """What ``--fix`` does."""
    if facts.entries is None or isinstance(facts.entries, Unknown):
        return ()
    open_entries = (entry for entry in facts.entries if entry.uid == facts.uid and entry.mode & 0o077)
    return tuple(Chmod(entry, 0o700 if entry.kind == "directory" else 0o600) for entry in open_entries)


def permissions(entries: tuple[Entry, ...], facts: Facts) -> Iterable[Said]:
    for entry in entries:
        if entry.uid != facts.uid:
            owner = f"{str(entry.path)!r} belongs to uid {entry.uid}, not to you"
            yield Said("fail", owner, f"sudo chown {facts.uid} {entry.path}")
    for repair in repairs(facts):
        path, mode = str(repair.entry.path), repair.entry.mode
        yield Said("fail", f"{path!r} has mode {mode:04o}: others can reach it", repair.command)
    if all(entry.uid == facts.uid and not entry.mode & 0o077 for entry in entries):
        yield Said("ok", "home, keys and sockets are yours alone")


def mesh(_: Facts, facts: Facts) -> Iterable[Said]:
    if isinstance(facts.leaf, Unknown):
        return  # what this home is could not be seen; the certificate's row says why
    if facts.role == "none":
        yield Said("warn", f"{str(facts.home)!r} holds no mesh yet", "rpcmesh init, or on a node: rpcmesh join STRING")
    else:
        yield Said("ok", f"{str(facts.home)!r} is a {facts.role}'s home")


def own_certificate(leaf: Leaf, facts: Facts) -> Iterable[Said]:
    if leaf.problem:
        yield Said("fail", leaf.problem, leaf.fix)
        return
    renew = "rpcmesh serve" if facts.role == "coordinator" else "on the coordinator: rpcmesh serve"
    identity = facts.home / "identity"
    # An expired node is refused by its coordinator, so it cannot be renewed any more.
    again = f"mv {identity} {identity}.old && rpcmesh join STRING"
    expired_fix = renew if facts.role == "coordinator" else again
    yield _expiry("this home's certificate", leaf.not_before, leaf.not_after, facts.now, renew, expired_fix)


def node_certificates(report: StatusReport, facts: Facts) -> Iterable[Said]:
    for node, agent in _answering(report):
        held = agent.certificate
        fix = f"rpcmesh serve renews it: see its log for {node.name}"
        anew = f"on {node.name}: rpcmesh join STRING, from rpcmesh token create --node {node.name}"
        yield _expiry(f"{node.name}'s certificate", held.not_before, held.not_after, facts.now, fix, anew)


def _expiry(whose: str, not_before: float, not_after: float, now: float, renew: str, anew: str) -> Said:
    if now >= not_after:
        return Said("fail", f"{whose} expired {span(now - not_after)} ago", anew)
    if now < not_before:
        return Said("fail", f"{whose} is valid only in {span(not_before - now)}: is the clock right?", "date -u")
    left = f"{whose} is good for {span(not_after - now)} more"
    if now - not_before > LEAF_WORN * (not_after - not_before):
        return Said("warn", f"{left}: it should have been renewed by now", renew)
    return Said("ok", left)


def binaries(builds: tuple[BuildSeen, ...], _: Facts) -> Iterable[Said]:
    if not builds:
        yield Said("warn", "nothing is built for this version of rpcmesh yet", "rpcmesh build")
    for build in builds:
        if build.problem:
            yield Said("fail", build.problem, f"rm -r {build.dir} && rpcmesh build")
        else:
            yield Said("ok", f"build {build.build_id} is as it was built")


def native_build(native: Native, _: Facts) -> Iterable[Said]:
    if native.missing:
        yield Said("fail", f"the native build needs {' and '.join(native.missing)}", native.install)
    else:
        yield Said("ok", "compiler, cmake and the OpenSSL headers are there")


def disk_room(disks: tuple[Disk | Unknown, ...], _: Facts) -> Iterable[Said]:
    for disk in disks:
        if isinstance(disk, Unknown):
            yield _not_seen(disk)
            continue
        free = f"{size(disk.free_bytes)} free for the {disk.what} {str(disk.path)!r}"
        level: Level = "ok"
        if disk.free_bytes < DISK_LOW_BYTES:
            level = "fail" if disk.free_bytes < DISK_FULL_BYTES else "warn"
        larger = f"free some room, or set RPCMESH_{disk.what.upper()} to a larger disk"
        yield Said(level, free, None if level == "ok" else larger)


def model_file(model: ModelFile, _: Facts) -> Iterable[Said]:
    if not model.name:
        yield Said("warn", "no model is chosen", "rpcmesh serve --model NAME, or [engine] model in config.toml")
    elif model.problem:
        yield Said("fail", model.problem, model.fix)
    else:
        yield Said("ok", f"model {model.name!r} is a GGUF file of {size(model.size_bytes)}")


def open_files(limit: int, _: Facts) -> Iterable[Said]:
    if limit >= FILES_LOW:
        yield Said("ok", "enough files may be open")
    else:
        level: Level = "fail" if limit < FILES_TOO_FEW else "warn"
        yield Said(level, f"only {limit} files may be open at once", "ulimit -n 4096")


def bind_address(listening: Listening, _: Facts) -> Iterable[Said]:
    if listening.problem:
        yield Said("fail", listening.problem, listening.fix)
    else:
        yield Said("ok", f"this machine can listen on {listening.address}")


def coordinator(found: StatusReport | NotRunning, _: Facts) -> Iterable[Said]:
    if isinstance(found, NotRunning):
        yield Said("warn", found.why, found.start)
        return
    yield Said("ok", f"it answers, up {span(found.uptime_s)}")
    model = found.model
    if model.state == "failed":
        yield Said("fail", f"model {model.name!r} could not be loaded: {model.reason}", "rpcmesh status")
    elif model.state == "waiting":
        yield Said("warn", f"model {model.name!r} waits for workers" + _because(model.reason), "rpcmesh node ls")


def nodes(report: StatusReport, _: Facts) -> Iterable[Said]:
    if not report.nodes:
        yield Said("warn", "no node has joined", "rpcmesh token create")
    for node in report.nodes:
        match node.state:
            case "up":
                yield Said("ok", f"{node.name} is up")
            case "unseen":
                yield Said("warn", f"{node.name} has not been heard of yet", f"on {node.name}: rpcmesh node run")
            case "revoked":
                yield Said("ok", f"{node.name} is revoked")
            case _:
                fix = f"on {node.name}: rpcmesh node run, then rpcmesh doctor"
                yield Said("fail", f"{node.name} is {node.state}{_because(node.reason)}", fix)


def node_workers(report: StatusReport, _: Facts) -> Iterable[Said]:
    for node, agent in _answering(report):
        yield from _workers(agent, f" of {node.name}", f"on {node.name}: rpcmesh doctor")


def own_agent(found: AgentStatus | NotRunning, _: Facts) -> Iterable[Said]:
    if isinstance(found, NotRunning):
        yield Said("warn", found.why, found.start)
        return
    yield Said("ok", f"it answers, up {span(found.uptime_s)}")
    yield from _workers(found, "", "rpcmesh doctor, and see what rpcmesh node run printed")
    if found.tunnel_state != "ready":
        yield Said("fail", f"the tunnel is {found.tunnel_state}", "see what rpcmesh node run printed")


def _workers(agent: AgentStatus, of: str, fix: str) -> Iterable[Said]:
    for worker in agent.workers:
        if worker.state == "ready":
            yield Said("ok", f"worker {worker.name}{of} is ready")
        else:
            level: Level = "warn" if worker.state == "starting" else "fail"
            why = _because(worker.last_exit)
            yield Said(level, f"worker {worker.name}{of} is {worker.state}{why}", fix)


def build_ids(report: StatusReport, _: Facts) -> Iterable[Said]:
    for node in report.nodes:
        # A node with another build counts as down, for it is not used.
        if node.agent is None:
            continue
        if node.agent.build_id == report.build_id:
            yield Said("ok", f"{node.name} has the coordinator's build {report.build_id}")
        else:
            differs = f"{node.name} has build {node.agent.build_id}, the coordinator {report.build_id}"
            fix = f"on {node.name}: install rpcmesh {report.version}, rpcmesh build, rpcmesh node run"
            yield Said("fail", differs, fix)


def systems(report: StatusReport, _: Facts) -> Iterable[Said]:
    kinds: dict[str, list[str]] = {}
    for node, agent in _answering(report):
        kinds.setdefault(f"{agent.os.partition(' ')[0]} {agent.arch}", []).append(node.name)
    if len(kinds) > 1:
        listed = "; ".join(f"{kind}: {', '.join(names)}" for kind, names in sorted(kinds.items()))
        yield Said("ok", f"the nodes are of several kinds, which is no fault: {listed}")


def memory(report: StatusReport, facts: Facts) -> Iterable[Said]:
    model = facts.model
    room = [_room_bytes(agent) for _, agent in _answering(report)]
    if not isinstance(model, ModelFile) or not model.size_bytes or not room:
        return
    compared = f"the model is {size(model.size_bytes)}, and the nodes have room for {size(sum(room))}"
    if model.size_bytes > sum(room):
        yield Said("warn", compared, "add a node: rpcmesh token create, or choose a smaller model")
    else:
        yield Said("ok", compared)


def _room_bytes(agent: AgentStatus) -> int:
    """Of the accelerators, as they were when the workers started; without one, of the memory, the workers' own share
    (the model, when it is loaded) included."""
    free_mib = sum(
        device.free_mib for worker in agent.workers for device in worker.devices if not device.name.startswith("CPU")
    )
    return free_mib * 2**20 or agent.memory_available_bytes + sum(worker.rss_bytes for worker in agent.workers)


def cpu_governor(governors: tuple[str, ...], _: Facts) -> Iterable[Said]:
    slow = sorted(set(governors) - {"performance"})
    if slow:
        fix = "sudo cpupower frequency-set -g performance"
        yield Said("warn", f"the CPU governor is {', '.join(map(repr, slow))}: cores may run slower than they can", fix)
    elif governors:
        yield Said("ok", "the CPU governor is 'performance'")


def mac_settings(mac: MacSettings, _: Facts) -> Iterable[Said]:
    match mac.wired_limit_mb:
        case None:
            yield _not_seen(Unknown("sysctl did not say iogpu.wired_limit_mb"))
        case 0:
            yield Said("ok", "the GPU may use the system's default share of memory (iogpu.wired_limit_mb is 0)")
        case limit:
            yield Said("ok", f"the GPU may use {limit} MiB of memory")
    match mac.sleep_min:
        case None:
            yield _not_seen(Unknown("pmset did not say when this machine sleeps"))
        case 0:
            yield Said("ok", "this machine does not sleep by itself")
        case minutes:
            yield Said("warn", f"this machine sleeps after {minutes} min and leaves the mesh", "sudo pmset -a sleep 0")


def _answering(report: StatusReport) -> list[tuple[NodeReport, AgentStatus]]:
    """What a node that is gone said last is no news."""
    return [(node, node.agent) for node in report.nodes if node.agent is not None and node.state == "up"]


def _because(reason: str) -> str:
    return f": {reason}" if reason else ""


def _not_seen(fact: Unknown) -> Said:
    return Said("warn", f"could not be looked at: {fact.why}")


def _report(facts: Facts) -> StatusReport | None:
    """For checks that say nothing when there is no report: the coordinator's own row says why."""
    return facts.coordinator if isinstance(facts.coordinator, StatusReport) else None


@dataclass(frozen=True)
class Row(Generic[T]):
    """One check. A fact that is None does not exist here, and its check says nothing."""

    name: str
    fact: Callable[[Facts], T | Unknown | None]
    judge: Callable[[T, Facts], Iterable[Said]]

    def __call__(self, facts: Facts) -> tuple[Finding, ...]:
        found = self.fact(facts)
        if found is None:
            return ()
        said = (_not_seen(found),) if isinstance(found, Unknown) else self.judge(found, facts)
        return tuple(Finding(self.name, one.level, one.message, one.fix) for one in said)


# In the order in which they are printed: this home, this machine, the mesh.
ROWS: tuple[Callable[[Facts], tuple[Finding, ...]], ...] = (
    Row("mesh", lambda facts: facts, mesh),
    Row("permissions", lambda facts: facts.entries, permissions),
    Row("certificate", lambda facts: facts.leaf, own_certificate),
    Row("native build", lambda facts: facts.native, native_build),
    Row("binaries", lambda facts: facts.builds, binaries),
    Row("disk", lambda facts: facts.disks, disk_room),
    Row("open files", lambda facts: facts.open_files_limit, open_files),
    Row("address", lambda facts: facts.listening, bind_address),
    Row("cpu governor", lambda facts: facts.governors, cpu_governor),
    Row("macos", lambda facts: facts.mac, mac_settings),
    Row("model file", lambda facts: facts.model, model_file),
    Row[StatusReport | NotRunning]("coordinator", lambda facts: facts.coordinator, coordinator),
    Row[AgentStatus | NotRunning]("node", lambda facts: facts.agent, own_agent),
    Row("nodes", _report, nodes),
    Row("workers", _report, node_workers),
    Row("build ids", _report, build_ids),
    Row("systems", _report, systems),
    Row("certificates", _report, node_certificates),
    Row("memory", _report, memory),
)


def examine(facts: Facts) -> tuple[Finding, ...]:
    """Every finding of every check that applies here."""
    return tuple(finding for row in ROWS for finding in row(facts))


def healthy(findings: Iterable[Finding]) -> bool:
    """Whether nothing failed; warnings are not failures."""
    return all(finding.level != "fail" for finding in findings)
