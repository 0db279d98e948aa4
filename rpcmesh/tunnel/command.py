"""The native tunnel's command lines. Paths only: no secret ever stands in an argument."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import msgspec

from rpcmesh.errors import RpcmeshError

# The tunnel's exit status when its address is taken.
EXIT_ADDRESS_IN_USE = 3
DEFAULT_MEMORY_MIB = 65536
DEFAULT_COMPUTE_TIMEOUT_S = 120
DEFAULT_STALL_TIMEOUT_S = 30


def ingress(
    binary: Path,
    *,
    listen: str,
    identity: Path,
    routes: Path,
    status: Path,
    memory_mib: int = DEFAULT_MEMORY_MIB,
    allow_ops: Iterable[str] = (),
    compute_timeout_s: int = DEFAULT_COMPUTE_TIMEOUT_S,
    stall_timeout_s: int = DEFAULT_STALL_TIMEOUT_S,
) -> tuple[str, ...]:
    """``memory_mib`` bounds what one RPC session may allocate; ``allow_ops`` pass the guard without a rule.

    ``compute_timeout_s`` bounds how long a worker may take over one answer, ``stall_timeout_s`` how long a client may
    leave a frame unfinished or its answers unread.
    """
    allowed = [word for op in allow_ops for word in ("--allow-op", op)]
    times = ("--compute-timeout-s", str(compute_timeout_s), "--stall-timeout-s", str(stall_timeout_s))
    limits = ("--memory-mib", str(memory_mib), *times, *allowed)
    return (str(binary), "ingress", "--listen", listen, *_common(identity, routes, status), *limits)


def egress(binary: Path, *, identity: Path, routes: Path, status: Path) -> tuple[str, ...]:
    return (str(binary), "egress", *_common(identity, routes, status))


def loopback(binary: Path, *, listen: str, to: Path) -> tuple[str, ...]:
    return (str(binary), "loopback", "--listen", listen, "--to", str(to))


def address_in_use(listen: str) -> RpcmeshError:
    host, _, port = listen.rpartition(":")
    return RpcmeshError(
        f"port {port} on {host} is in use",
        hint="find who has it: ss -ltnp (Linux) or lsof -nP -iTCP -sTCP:LISTEN (macOS); or choose another address",
    )


class _LogLine(msgspec.Struct):
    event: str


def says_listening(line: str) -> bool:
    """Whether this line of a tunnel's log says that it can be connected to."""
    try:
        return msgspec.json.decode(line, type=_LogLine).event == "listening"
    except msgspec.DecodeError:
        return False


def _common(identity: Path, routes: Path, status: Path) -> tuple[str, ...]:
    return ("--identity", str(identity), "--routes", str(routes), "--status", str(status))
