"""What a node says of itself: the schema of the agent's ``/status``."""

from __future__ import annotations

import msgspec

from rpcmesh.firewall.watch import FirewallStatus


class Device(msgspec.Struct, frozen=True):
    """A ggml device of the worker, as it printed it at its start. Sizes in MiB, as printed."""

    name: str
    description: str
    total_mib: int
    free_mib: int


class WorkerStatus(msgspec.Struct, frozen=True):
    name: str
    state: str
    pid: int | None
    restarts: int
    last_exit: str
    rss_bytes: int
    devices: tuple[Device, ...] = ()


class CertificateStatus(msgspec.Struct, frozen=True):
    """Times in Unix seconds."""

    uri: str
    serial: str
    not_before: float
    not_after: float


class AgentStatus(msgspec.Struct, frozen=True):
    name: str
    mesh: str
    version: str
    build_id: str
    backend: str
    os: str
    arch: str
    uptime_s: float
    memory_total_bytes: int
    memory_available_bytes: int
    load_1min: float
    workers: tuple[WorkerStatus, ...]
    certificate: CertificateStatus
    crl_number: int
    tunnel_state: str
    # Where this node believes the coordinator's connections to come from.
    coordinator_addresses: tuple[str, ...] = ()
    firewall: FirewallStatus = FirewallStatus()
