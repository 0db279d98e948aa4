"""Every check is a row: a name, the fact that it needs, and the pure function that judges it. In order of printing."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Generic, TypeVar

from rpcmesh.coordinator.report import StatusReport
from rpcmesh.doctor.checks import confinement, home, machine, macos, measured, reported, walls
from rpcmesh.doctor.facts import Facts, Measured, NotRunning, Unknown
from rpcmesh.doctor.findings import Finding, Said, not_seen
from rpcmesh.firewall.watch import FirewallStatus
from rpcmesh.node.status import AgentStatus

T = TypeVar("T")


def _report(facts: Facts) -> StatusReport | None:
    """For checks that say nothing when there is no report: the coordinator's own row says why."""
    return facts.coordinator if isinstance(facts.coordinator, StatusReport) else None


def _agent(facts: Facts) -> AgentStatus | None:
    """Likewise of this node's agent."""
    return facts.agent if isinstance(facts.agent, AgentStatus) else None


def _firewall(facts: Facts) -> FirewallStatus | None:
    """Of this machine, as the service that runs here sees it."""
    if isinstance(facts.coordinator, StatusReport):
        return facts.coordinator.firewall
    return facts.agent.firewall if isinstance(facts.agent, AgentStatus) else None


def _of_measured(part: Callable[[Measured], T]) -> Callable[[Facts], T | None]:
    """Likewise when nothing was measured: the row of the round trips says why."""
    return lambda facts: part(facts.measured) if isinstance(facts.measured, Measured) else None


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
        said = (not_seen(found),) if isinstance(found, Unknown) else self.judge(found, facts)
        return tuple(Finding(self.name, one.level, one.message, one.fix) for one in said)


# This home, this machine, what runs here, the mesh.
ROWS: tuple[Callable[[Facts], tuple[Finding, ...]], ...] = (
    Row("mesh", lambda facts: facts, home.mesh),
    Row("permissions", lambda facts: facts.entries, home.permissions),
    Row("certificate", lambda facts: facts.leaf, home.own_certificate),
    Row("native build", lambda facts: facts.native, home.native_build),
    Row("binaries", lambda facts: facts.builds, home.binaries),
    Row("address", lambda facts: facts.listening, home.bind_address),
    Row("model file", lambda facts: facts.model, home.model_file),
    Row("disk", lambda facts: facts.disks, machine.disk_room),
    Row("open files", lambda facts: facts.open_files_limit, machine.open_files),
    Row("locked memory", lambda facts: facts.memlock_bytes, machine.locked_memory),
    Row("huge pages", lambda facts: facts.huge_pages, machine.huge_pages),
    Row("cpu governor", lambda facts: facts.governors, machine.cpu_governor),
    Row("heat", lambda facts: facts.heat, machine.heat),
    Row("sleep", lambda facts: facts.suspend, machine.suspend),
    Row("gpu", lambda facts: facts.gpu_persistence, machine.gpu_persistence),
    Row("macos", lambda facts: facts.mac, macos.settings),
    Row[StatusReport | NotRunning]("coordinator", lambda facts: facts.coordinator, reported.coordinator),
    Row[AgentStatus | NotRunning]("node", lambda facts: facts.agent, reported.own_agent),
    Row("sandbox", lambda facts: facts.walls, walls.sandbox),
    Row("confinement", _agent, confinement.own_workers),
    Row("open ports", lambda facts: facts.listeners, walls.open_ports),
    Row("firewall", _firewall, reported.own_firewall),
    Row("nodes", _report, reported.nodes),
    Row("workers", _report, reported.node_workers),
    Row("confinements", _report, confinement.node_workers),
    Row("firewalls", _report, reported.node_firewalls),
    Row("build ids", _report, reported.build_ids),
    Row("systems", _report, reported.systems),
    Row("certificates", _report, reported.node_certificates),
    Row("memory", _report, reported.memory),
    Row("links", lambda facts: facts.measured, measured.links),
    Row("clocks", _of_measured(lambda seen: seen.clocks), measured.clocks),
    Row("strangers", _of_measured(lambda seen: seen.tried), measured.strangers),
)


def examine(facts: Facts) -> tuple[Finding, ...]:
    """Every finding of every check that applies here."""
    return tuple(finding for row in ROWS for finding in row(facts))


def healthy(findings: Iterable[Finding]) -> bool:
    """Whether nothing failed; warnings are not failures."""
    return all(finding.level != "fail" for finding in findings)
