"""A stranger's try: from a network namespace joined to this machine by a link of its own, a connection to our port.

What the rules say is one thing, and what the machine does another. The namespace, its address and its link exist for a
moment only. macOS has no such thing: there another machine has to try, and `rpcmesh doctor` on the coordinator has the
nodes try each other.
"""

from __future__ import annotations

import contextlib
import ipaddress
import shutil
import sys
import uuid
from collections.abc import Iterator

from rpcmesh.errors import RpcmeshError
from rpcmesh.firewall import commands
from rpcmesh.firewall.loaded import Command
from rpcmesh.firewall.policy import Policy, network

# Networks for tests of network devices (RFC 2544) and for documentation (RFC 3849): nobody's, and no peer's.
_LINKS = {4: ("198.18.77.1", "198.18.77.2", 30), 6: ("2001:db8:7770::1", "2001:db8:7770::2", 126)}
# Says what became of a connection: a firewall that drops leaves silence.
_CONNECT = """
import socket, sys
try:
    socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=1.5).close()
    print("connected")
except TimeoutError:
    print("silent")
except ConnectionRefusedError:
    print("refused")
except OSError as error:
    print(error.strerror)
"""


def try_as_stranger(policy: Policy, address: str) -> str:
    """One line on what became of a stranger's connection to ``address``, on which this machine listens.

    Raises :class:`RpcmeshError` when the stranger got an answer.
    """
    tried = f"{address} port {policy.tls_port}"
    if not policy.peers:
        return "probe: none, for anybody may connect"
    listens = ipaddress.ip_address(address)
    if listens.is_loopback:
        return f"probe: none, for {address} is out of everybody's reach but this machine's"
    if not shutil.which("ip", path=commands.TOOL_PATH):  # Linux has it
        return "probe: none from this machine; `rpcmesh doctor` on the coordinator has the nodes try each other"
    ours, theirs, prefix = _LINKS[listens.version]
    if any(ipaddress.ip_address(theirs) in network(peer) for peer in policy.peers):
        return f"probe: none, for {theirs}, a stranger's address, is among the peers"
    target = ours if listens.is_unspecified else address
    try:
        with _stranger(ours, theirs, prefix) as inside:
            said = _run(*inside, sys.executable, "-I", "-c", _CONNECT, target, str(policy.tls_port)).strip()
    except RpcmeshError as error:
        return f"probe: none, for a stranger's network could not be made: {error.message}"
    if said in {"connected", "refused"}:
        raise RpcmeshError(
            f"a stranger's connection to {tried} was {'let in' if said == 'connected' else 'answered'}: "
            "the rules are loaded and do not keep strangers out",
            hint="look for rules that come before ours: nft list ruleset",
        )
    if said != "silent":
        return f"probe: none, for {tried} is out of a stranger's reach: {said}"
    return f"probe: a stranger's connection to {tried} got no answer"


@contextlib.contextmanager
def _stranger(ours: str, theirs: str, prefix: int) -> Iterator[tuple[str, ...]]:
    """The words before a command that run it in the namespace."""
    name = f"rpcmesh-{uuid.uuid4().hex[:6]}"
    link = f"rm-{name[-6:]}"
    # No wait for a duplicate of an address that is ours alone.
    settled = ("nodad",) if ":" in ours else ()
    _run("ip", "netns", "add", name)
    try:
        _run("ip", "link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", name)
        try:
            _run("ip", "address", "add", f"{ours}/{prefix}", "dev", link, *settled)
            _run("ip", "link", "set", link, "up")
            inside = ("ip", "netns", "exec", name)
            _run(*inside, "ip", "address", "add", f"{theirs}/{prefix}", "dev", "eth0", *settled)
            _run(*inside, "ip", "link", "set", "eth0", "up")
            _run(*inside, "ip", "route", "add", "default", "via", ours)
            yield inside
        finally:
            _run("ip", "link", "delete", link)
    finally:
        _run("ip", "netns", "delete", name)


def _run(*argv: str) -> str:
    return commands.run(Command(argv)).stdout
