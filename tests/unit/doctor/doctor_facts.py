"""Facts of a mesh that is well, and what the doctor says of them. No test lives here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rpcmesh.coordinator.report import ModelReport, NodeReport, StatusReport
from rpcmesh.doctor import rows
from rpcmesh.doctor.facts import Facts
from rpcmesh.doctor.findings import Finding
from rpcmesh.node.status import AgentStatus, CertificateStatus, SandboxStatus, WorkerStatus

HOME = Path("/home/mesh")
UID = 1000
DAY_S = 86400.0
NOW = 100 * DAY_S
GIB, MIB = 2**30, 2**20


def facts(**known: Any) -> Facts:
    return Facts(**{"now": NOW, "role": "coordinator", "home": HOME, "uid": UID, **known})


def said(check: str, **known: Any) -> list[Finding]:
    return [finding for finding in rows.examine(facts(**known)) if finding.check == check]


def levels(check: str, **known: Any) -> list[str]:
    return [finding.level for finding in said(check, **known)]


CONFINED = SandboxStatus(state="confined", landlock=7, call_filter=True, uid=998, limits={"core_mib": 0, "files": 64})


def worker(**changes: Any) -> WorkerStatus:
    ready: dict[str, Any] = {"name": "w0", "state": "ready", "pid": 1, "restarts": 0, "last_exit": "", "rss_bytes": GIB}
    ready["sandbox"] = CONFINED
    return WorkerStatus(**{**ready, **changes})


def leaf_of(age_days: float, life_days: float = 7.0) -> tuple[float, float]:
    return NOW - age_days * DAY_S, NOW + (life_days - age_days) * DAY_S


def agent(age_days: float = 1.0, **changes: Any) -> AgentStatus:
    not_before, not_after = leaf_of(age_days)
    well = {
        "name": "a",
        "mesh": "mesh",
        "version": "0.1.0",
        "build_id": "b1",
        "backend": "cpu",
        "os": "Linux 6.1",
        "arch": "x86_64",
        "uptime_s": 5.0,
        "memory_total_bytes": 16 * GIB,
        "memory_available_bytes": 8 * GIB,
        "load_1min": 0.0,
        "workers": (worker(),),
        "certificate": CertificateStatus("spiffe://mesh/node/a", "01", not_before, not_after),
        "crl_number": 1,
        "tunnel_state": "ready",
    }
    return AgentStatus(**{**well, **changes})


def node(name: str = "a", state: str = "up", reason: str = "", said_last: AgentStatus | None = None) -> NodeReport:
    return NodeReport(name=name, address="10.0.0.2:7443", state=state, reason=reason, agent=said_last)


def report(*nodes: NodeReport, **model: Any) -> StatusReport:
    shown = {"name": "m", "state": "ready", "reason": "", "progress": 1.0, "n_ctx": 512, "placement": (), **model}
    return StatusReport(
        mesh="mesh",
        version="0.1.0",
        build_id="b1",
        endpoint="https://10.0.0.1:8443/v1",
        uptime_s=60.0,
        ready=True,
        reason=None,
        model=ModelReport(**shown),
        nodes=nodes,
        links=(),
    )
