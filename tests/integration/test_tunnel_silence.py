"""A peer that vanishes without a word is given up within seconds by both ends; one that is only slow never is."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tunnel_harness import (
    COORDINATOR,
    NODE,
    Mesh,
    Tunnel,
    dial_unix,
    echo,
    eventually,
    exchange,
    fill,
    founded,
    receive,
    sample,
    unix_server,
)

from rpcmesh.tunnel.routes import AGENT_ALPN, EgressRoute, IngressRoute

NODE_ADDRESS, COORDINATOR_ADDRESS = "10.77.1.2", "10.77.2.2"
# The tunnel's own target is 3 s.
GIVEN_UP_S = 5.0


def ip(*arguments: str, check: bool = True) -> None:
    subprocess.run(["ip", *arguments], check=check, capture_output=True)  # noqa: S607


class Network:
    """A node's and a coordinator's network namespace, and between them a router that can be told to drop everything."""

    def __init__(self) -> None:
        self.node, self.router, self.coordinator = (f"rm-{os.getpid()}-{part}" for part in ("n", "r", "c"))

    def set_up(self) -> None:
        for name in (self.node, self.router, self.coordinator):
            ip("netns", "add", name)
        for name, address, port in ((self.node, NODE_ADDRESS, "n0"), (self.coordinator, COORDINATOR_ADDRESS, "c0")):
            gateway = address.removesuffix("2") + "1"
            ip("link", "add", "eth0", "netns", name, "type", "veth", "peer", "name", port, "netns", self.router)
            ip("-n", name, "address", "add", f"{address}/24", "dev", "eth0")
            ip("-n", self.router, "address", "add", f"{gateway}/24", "dev", port)
            ip("-n", name, "link", "set", "eth0", "up")
            ip("-n", self.router, "link", "set", port, "up")
            ip("-n", name, "route", "add", "default", "via", gateway)
        self.forward(True)

    def tear_down(self) -> None:
        for name in (self.node, self.router, self.coordinator):
            ip("netns", "del", name, check=False)

    def forward(self, on: bool) -> None:
        """A router that does not forward says nothing about it: both ends keep their link, and hear no error."""
        setting = f"echo {int(on)} >/proc/sys/net/ipv4/ip_forward"
        ip("netns", "exec", self.router, "sh", "-c", setting)


@pytest.fixture
def network() -> Iterator[Network]:
    if sys.platform != "linux" or shutil.which("ip") is None:
        pytest.skip("network namespaces need Linux and iproute2")
    if os.geteuid() != 0:
        pytest.skip("network namespaces need root")
    network = Network()
    try:
        try:
            network.set_up()
        except subprocess.CalledProcessError as error:
            pytest.skip(f"no network namespaces here: {error.stderr.decode().strip()}")
        yield network
    finally:
        network.tear_down()


@pytest.fixture
def mesh(tunnel_binary: Path) -> Iterator[Mesh]:
    with founded(tunnel_binary) as mesh:
        yield mesh


class Pair:
    """An ingress and an egress, each in its own namespace, and a local client of the egress."""

    def __init__(self, network: Network, ingress: Tunnel, egress: Tunnel, entrance: Path) -> None:
        self.network = network
        self.ingress = ingress
        self.egress = egress
        self.entrance = entrance

    def assert_both_give_up(self) -> None:
        deadline = time.monotonic() + GIVEN_UP_S
        for tunnel in (self.ingress, self.egress):
            [closed] = eventually(
                lambda tunnel=tunnel: tunnel.log("session_closed"),
                lambda tunnel=tunnel: f"{tunnel.status().mode} gives up",
                deadline - time.monotonic(),
            )
            assert closed["reason"] in {"peer_silent", "peer_closed"}
            eventually(lambda tunnel=tunnel: tunnel.status().sessions == (), "nobody is left")


def inside(mesh: Mesh, namespace: str) -> Mesh:
    """The same mesh, its tunnels started in ``namespace``."""
    script = mesh.path(namespace)
    script.write_text(f'#!/bin/sh\nexec ip netns exec {namespace} {mesh.binary} "$@"\n')
    script.chmod(0o700)
    return dataclasses.replace(mesh, binary=script)


@contextlib.contextmanager
def pair(mesh: Mesh, network: Network, handle: Callable[[socket.socket], None]) -> Iterator[Pair]:
    served = IngressRoute(AGENT_ALPN, mesh.path("served"), COORDINATOR)
    dialled = EgressRoute(mesh.path("alpha.sock"), f"{NODE_ADDRESS}:7443", AGENT_ALPN, NODE)
    node, coordinator = mesh.identity("node", mesh.leaf(NODE)), mesh.identity("coordinator", mesh.leaf(COORDINATOR))
    with (
        unix_server(served.socket, handle),
        inside(mesh, network.node).ingress([served], node, listen=f"{NODE_ADDRESS}:7443") as ingress,
        inside(mesh, network.coordinator).egress([dialled], coordinator) as egress,
    ):
        yield Pair(network, ingress, egress, dialled.listen)


def assert_let_go(client: socket.socket) -> None:
    with contextlib.suppress(ConnectionError):
        while client.recv(1 << 16):
            pass


def test_an_idle_session_ends_when_the_peer_vanishes_and_the_next_one_works(mesh: Mesh, network: Network) -> None:
    with pair(mesh, network, echo) as both:
        with dial_unix(both.entrance) as client:
            assert exchange(client, b"hello") == b"hello"
            network.forward(False)
            both.assert_both_give_up()
            assert_let_go(client)
        network.forward(True)
        with dial_unix(both.entrance) as again:
            assert exchange(again, b"hello") == b"hello"


def test_a_session_with_requests_in_flight_ends_when_the_node_vanishes(mesh: Mesh, network: Network) -> None:
    with pair(mesh, network, echo) as both, dial_unix(both.entrance) as client:
        assert exchange(client, b"hello") == b"hello"
        network.forward(False)
        client.sendall(sample(100_000))
        both.assert_both_give_up()
        assert_let_go(client)


def test_a_session_ends_at_both_ends_when_the_nodes_own_link_goes_down(mesh: Mesh, network: Network) -> None:
    with pair(mesh, network, echo) as both, dial_unix(both.entrance) as client:
        assert exchange(client, b"hello") == b"hello"
        ip("-n", network.node, "link", "set", "eth0", "down")
        both.assert_both_give_up()
        assert_let_go(client)


def test_a_session_with_answers_in_flight_ends_when_the_coordinator_vanishes(mesh: Mesh, network: Network) -> None:
    def pour(connection: socket.socket) -> None:
        while True:
            connection.sendall(sample(1 << 16))

    with pair(mesh, network, pour) as both, dial_unix(both.entrance) as client:
        receive(client, 1 << 22)
        network.forward(False)
        both.assert_both_give_up()
        assert_let_go(client)


def test_a_client_that_keeps_talking_does_not_hide_that_the_node_vanished(mesh: Mesh, network: Network) -> None:
    with pair(mesh, network, echo) as both, dial_unix(both.entrance) as client:
        assert exchange(client, b"hello") == b"hello"
        over = threading.Event()

        def trickle() -> None:
            with contextlib.suppress(OSError):
                while not over.wait(0.05):
                    client.sendall(b"x")

        thread = threading.Thread(target=trickle)
        network.forward(False)
        thread.start()
        try:
            both.assert_both_give_up()
        finally:
            over.set()
            thread.join()


def test_a_node_that_vanishes_while_it_is_busy_is_given_up_too(mesh: Mesh, network: Network) -> None:
    """Its window is full: nothing is in flight then, and TCP only asks now and again."""
    over = threading.Event()
    with pair(mesh, network, lambda _: over.wait() and None) as both, dial_unix(both.entrance) as client:
        try:
            assert fill(client) > 0
            network.forward(False)
            both.assert_both_give_up()
            assert_let_go(client)
        finally:
            over.set()


def test_a_node_that_is_busy_for_longer_than_that_is_waited_for(mesh: Mesh, network: Network) -> None:
    over = threading.Event()

    def be_busy_then_echo(connection: socket.socket) -> None:
        over.wait()
        echo(connection)

    with pair(mesh, network, be_busy_then_echo) as both, dial_unix(both.entrance) as client:
        try:
            sent = fill(client)
            time.sleep(GIVEN_UP_S)
        finally:
            over.set()
        received = receive(client, sent)
        assert received == sample(sent)
        assert both.ingress.log("session_closed") + both.egress.log("session_closed") == []


def test_a_client_that_does_not_read_for_longer_than_that_is_waited_for(mesh: Mesh, network: Network) -> None:
    text = sample(32 * 2**20)
    with (
        pair(mesh, network, lambda connection: connection.sendall(text)) as both,
        dial_unix(both.entrance) as client,
    ):
        eventually(lambda: both.ingress.status().sessions, "the session")
        time.sleep(GIVEN_UP_S)
        assert receive(client, len(text)) == text
        assert {line["reason"] for line in both.egress.log("session_closed")} <= {"peer_closed"}
