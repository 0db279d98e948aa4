"""What the workers themselves are confined to, as each said when it was started."""

from __future__ import annotations

from collections.abc import Iterable

from rpcmesh.coordinator.report import StatusReport
from rpcmesh.doctor.checks.reported import answering
from rpcmesh.doctor.facts import Facts
from rpcmesh.doctor.findings import Said
from rpcmesh.node.status import AgentStatus, SandboxStatus

# By the first word of what is missing.
_FIXES = {
    "landlock": "a Linux of 5.13 or later with landlock in /sys/kernel/security/lsm",
    "seccomp": "a Linux with seccomp filters, CONFIG_SECCOMP_FILTER",
    "limits": "see worker_confined in what rpcmesh node run printed",
    "user": "sudo rpcmesh service install --role node",
}
_TURN_ON = '[node] sandbox = "auto" in the config, then rpcmesh node run'


def own_workers(agent: AgentStatus, _: Facts) -> Iterable[Said]:
    yield from _workers(agent, "", "")


def node_workers(report: StatusReport, _: Facts) -> Iterable[Said]:
    for node, agent in answering(report):
        yield from _workers(agent, f" of {node.name}", f"on {node.name}: ")


def _workers(agent: AgentStatus, of: str, where: str) -> Iterable[Said]:
    for worker in agent.workers:
        if worker.state == "ready":
            yield _said(worker.sandbox, f"worker {worker.name}{of}", where)


def _said(sandbox: SandboxStatus, whose: str, where: str) -> Said:
    match sandbox.state:
        case "confined":
            return Said("ok", f"{whose} is confined: {', '.join(_in_force(sandbox))}")
        case "partial":
            fixes = dict.fromkeys(_FIXES.get(_word(one), _FIXES["limits"]) for one in sandbox.missing)
            return Said("warn", f"{whose} lacks {'; '.join(sandbox.missing)}", where + "; ".join(fixes))
        case "off":
            return Said("warn", f"{whose} is not confined: the config says so", where + _TURN_ON)
        case "unknown":
            return Said(
                "warn", f"{whose} says nothing of its sandbox", f"{where}rpcmesh node run, from a newer rpcmesh"
            )


def _in_force(sandbox: SandboxStatus) -> Iterable[str]:
    if sandbox.landlock:
        yield f"Landlock {sandbox.landlock}"
    if sandbox.call_filter:
        yield "a system call filter"
    if sandbox.profile:
        yield f"the profile {sandbox.profile}"
    yield f"user {sandbox.uid}"
    yield f"{len(sandbox.limits)} limits"


def _word(missing: str) -> str:
    return missing.partition(":")[0]
