"""Machines of our own: network namespaces joined by a bridge in the first one. Removed with all that ran there."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import uuid
from collections.abc import Iterator

import pytest

IP = shutil.which("ip") or ""
BRIDGE_ADDRESS = "10.77.0.1"


def require() -> None:
    """Skip the test, with the reason, where no namespace can be made."""
    if os.getuid() != 0:
        pytest.skip("making network namespaces needs root")
    if not IP:
        pytest.skip("making network namespaces needs iproute2's ip")
    probe = f"rm-probe-{uuid.uuid4().hex[:6]}"
    made = subprocess.run([IP, "netns", "add", probe], capture_output=True, text=True, check=False)
    if made.returncode != 0:
        pytest.skip(f"network namespaces cannot be made here: {made.stderr.strip()}")
    subprocess.run([IP, "netns", "delete", probe], check=True)


class Network:
    """``hub`` is a namespace at 10.77.0.1; :meth:`add` joins others to it."""

    def __init__(self, tag: str) -> None:
        self.hub = f"rm-{tag}-hub"
        self._tag = tag
        self._names: list[str] = []
        ip("netns", "add", self.hub)
        self._names.append(self.hub)
        ip("-n", self.hub, "link", "set", "lo", "up")
        ip("-n", self.hub, "link", "add", "br0", "type", "bridge")
        ip("-n", self.hub, "addr", "add", f"{BRIDGE_ADDRESS}/24", "dev", "br0")
        ip("-n", self.hub, "link", "set", "br0", "up")

    def add(self) -> tuple[str, str]:
        """A new namespace and its address. Its network card is called ``eth0``."""
        number = len(self._names) + 1
        name, address = f"rm-{self._tag}-{number}", f"10.77.0.{number}"
        ip("netns", "add", name)
        self._names.append(name)
        ip("-n", name, "link", "set", "lo", "up")
        ip("-n", name, "link", "add", "eth0", "type", "veth", "peer", "name", f"port{number}", "netns", self.hub)
        ip("-n", name, "addr", "add", f"{address}/24", "dev", "eth0")
        ip("-n", name, "link", "set", "eth0", "up")
        ip("-n", self.hub, "link", "set", f"port{number}", "master", "br0", "up")
        return name, address

    def drop_silently(self, name: str) -> None:
        """Cut the cable: neither side is told that the connection is over."""
        ip("-n", name, "link", "set", "eth0", "down")

    def close(self) -> None:
        for name in reversed(self._names):
            ip("netns", "delete", name)


@contextlib.contextmanager
def network() -> Iterator[Network]:
    require()
    made = Network(uuid.uuid4().hex[:6])
    try:
        yield made
    finally:
        made.close()


def ip(*arguments: str) -> None:
    subprocess.run([IP, *arguments], check=True, capture_output=True)


def inside(name: str, *command: str) -> list[str]:
    """``command`` as it runs in the namespace ``name``."""
    return [IP, "netns", "exec", name, *command]
