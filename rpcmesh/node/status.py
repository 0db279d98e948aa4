"""What a node says of itself: the schema of the agent's ``/status``."""

from __future__ import annotations

from typing import Literal

import msgspec

from rpcmesh.firewall.watch import FirewallStatus


class Device(msgspec.Struct, frozen=True):
    """A ggml device of the worker, as it printed it at its start. Sizes in MiB, as printed."""

    name: str
    description: str
    total_mib: int
    free_mib: int


class SandboxStatus(msgspec.Struct, frozen=True):
    """What is in force for a running worker, as it was said when it was put in force.

    ``partial`` is not all of it: ``missing`` says what, a line each, whose first word is ``landlock``, ``seccomp``,
    ``limits`` or ``user``. ``unknown`` is a worker that has not said anything. ``landlock`` is the kernel's version of
    it, 0 without; ``profile`` the name of a sandbox-exec profile, on macOS.
    """

    state: Literal["confined", "partial", "off", "unknown"] = "unknown"
    landlock: int = 0
    call_filter: bool = False
    profile: str = ""
    uid: int | None = None
    limits: dict[str, int] = {}
    missing: tuple[str, ...] = ()


class WorkerStatus(msgspec.Struct, frozen=True):
    name: str
    state: str
    pid: int | None
    restarts: int
    last_exit: str
    rss_bytes: int
    devices: tuple[Device, ...] = ()
    sandbox: SandboxStatus = SandboxStatus()


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
    # What all buffers of one session may take; 0 where nothing but the memory itself limits them.
    memory_limit_bytes: int = 0
