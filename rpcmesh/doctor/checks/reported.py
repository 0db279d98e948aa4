"""What the running service of this home says of itself and of its mesh."""

from __future__ import annotations

from collections.abc import Iterable

from rpcmesh.coordinator.report import NodeReport, StatusReport
from rpcmesh.doctor.checks.home import expiry
from rpcmesh.doctor.facts import Facts, ModelFile, NotRunning
from rpcmesh.doctor.findings import Level, Said, because
from rpcmesh.firewall.watch import FirewallStatus, State
from rpcmesh.node.status import AgentStatus
from rpcmesh.words import size, span


def coordinator(found: StatusReport | NotRunning, _: Facts) -> Iterable[Said]:
    if isinstance(found, NotRunning):
        yield Said("warn", found.why, found.start)
        return
    yield Said("ok", f"it answers, up {span(found.uptime_s)}")
    model = found.model
    if model.state == "failed":
        yield Said("fail", f"model {model.name!r} could not be loaded: {model.reason}", "rpcmesh status")
    elif model.state == "waiting":
        yield Said("warn", f"model {model.name!r} waits for workers" + because(model.reason), "rpcmesh node ls")


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
            case "draining" | "drained":
                yield Said("ok", f"{node.name} is {node.state}{because(node.reason)}")
            case _:
                fix = f"on {node.name}: rpcmesh node run, then rpcmesh doctor"
                yield Said("fail", f"{node.name} is {node.state}{because(node.reason)}", fix)


def node_workers(report: StatusReport, _: Facts) -> Iterable[Said]:
    for node, agent in answering(report):
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
            why = because(worker.last_exit)
            yield Said(level, f"worker {worker.name}{of} is {worker.state}{why}", fix)


def own_firewall(status: FirewallStatus, _: Facts) -> Iterable[Said]:
    yield _firewall(status, "the firewall", "sudo rpcmesh service install --role firewall")


def node_firewalls(report: StatusReport, _: Facts) -> Iterable[Said]:
    for node, agent in answering(report):
        yield _firewall(agent.firewall, f"{node.name}'s firewall", f"on {node.name}: rpcmesh doctor")


def _firewall(status: FirewallStatus, whose: str, watch_it: str) -> Said:
    match status.state:
        case State.VERIFIED:
            return Said("ok", f"{whose} is verified")
        case State.DRIFT:
            return Said("fail", f"{whose} is not as meant: {status.reason}", "sudo rpcmesh firewall apply")
        case State.UNWATCHED:
            return Said("warn", f"nobody watches {whose}: {status.reason}", watch_it)


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
    for node, agent in answering(report):
        kinds.setdefault(f"{agent.os.partition(' ')[0]} {agent.arch}", []).append(node.name)
    if len(kinds) > 1:
        listed = "; ".join(f"{kind}: {', '.join(names)}" for kind, names in sorted(kinds.items()))
        yield Said("ok", f"the nodes are of several kinds, which is no fault: {listed}")


def node_certificates(report: StatusReport, facts: Facts) -> Iterable[Said]:
    for node, agent in answering(report):
        held = agent.certificate
        fix = f"rpcmesh serve renews it: see its log for {node.name}"
        anew = f"on {node.name}: rpcmesh join STRING, from rpcmesh token create --node {node.name}"
        yield expiry(f"{node.name}'s certificate", held.not_before, held.not_after, facts.now, fix, anew)


def memory(report: StatusReport, facts: Facts) -> Iterable[Said]:
    model = facts.model
    room = [_room_bytes(agent) for _, agent in answering(report)]
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


def answering(report: StatusReport) -> list[tuple[NodeReport, AgentStatus]]:
    """What a node that is gone said last is no news."""
    return [(node, node.agent) for node in report.nodes if node.agent is not None and node.state == "up"]
