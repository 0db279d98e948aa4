"""What keeps this node's processes in: as it is in force, not as it was meant."""

from __future__ import annotations

from collections.abc import Iterable

from rpcmesh import config
from rpcmesh.doctor.facts import Facts, Listener, Unknown, Walls
from rpcmesh.doctor.findings import Said, each

TUNNEL = "rpcmesh-tunnel"


def sandbox(walls: tuple[Walls | Unknown, ...], _: Facts) -> Iterable[Said]:
    return each(walls, _worker)


def _worker(walls: Walls) -> Iterable[Said]:
    """One of the two walls is enough: without a network there is nobody to talk to, with the filter little to do."""
    network = {True: "a network of its own", False: "the host's network", None: "a network that could not be seen"}
    calls = "a system call filter" if walls.call_filter else "no system call filter"
    more = ("" if walls.no_new_privileges else ", may gain rights") + (", runs as root" if walls.uid == 0 else "")
    has = f"worker {walls.worker} has {network[walls.own_network]} and {calls}{more}"
    if (walls.call_filter or walls.own_network) and walls.uid:
        yield Said("ok", has)
    else:
        yield Said("warn", has, "sudo rpcmesh service install --role node")


def open_ports(listeners: tuple[Listener, ...], _: Facts) -> Iterable[Said]:
    """The tunnel is the only way in: workers and the agent are on Unix sockets."""
    for one in listeners:
        if one.process != TUNNEL:
            where = config.join_address(one.host, one.port)
            stray = f"{one.process} (pid {one.pid}) listens on {where}: only the tunnel may"
            yield Said("fail", stray, f"find out what made it listen, and stop it: kill {one.pid}")
    if all(one.process == TUNNEL for one in listeners):
        where = ", ".join(config.join_address(one.host, one.port) for one in listeners)
        yield Said("ok", f"only the tunnel listens, on {where}" if where else "nothing listens on a port")
