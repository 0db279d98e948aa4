"""A stock llama.cpp RPC server on plaintext loopback, within bounds that keep the machine unharmed, and its end."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
from attack_conduct import SECRET
from attack_kinds import BUFFER_BYTES, session
from rpc_worker import set_tensor
from tunnel_harness import PATIENCE_S, eventually

from rpcmesh.native_build.manifest import WORKER

SERVED_WITHIN_S = 2.0
# How long a server that an attack ends may take for it, with its last words.
END_WITHIN_S = 1.0
CPU_LIMIT_S = 20
# macOS has no limit of the address space: there the shell complains, and goes on.
LIMITED = 'ulimit -c 0; ulimit -t "$1"; ulimit -v "$2" 2>/dev/null; shift 2; exec "$@"'


@dataclass(frozen=True)
class Stock:
    """One server, started for one attack."""

    process: subprocess.Popen[bytes]
    port: int

    @property
    def pid(self) -> int:
        return self.process.pid

    def connect(self) -> socket.socket:
        connection = socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE_S)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connection

    def resident_bytes(self) -> int:
        with contextlib.suppress(psutil.Error):
            return int(psutil.Process(self.pid).memory_info().rss)
        return 0

    def ended_by(self, within_s: float = 0.0) -> str:
        """The signal or status that it ended with; empty while it lives."""
        try:
            code = self.process.wait(within_s)
        except subprocess.TimeoutExpired:
            return ""
        return signal.Signals(-code).name if code < 0 else f"status {code}"

    def serves(self) -> bool:
        """An honest client, as long as it has patience."""
        deadline = time.monotonic() + SERVED_WITHIN_S
        try:
            with self.connect() as connection:
                connection.settimeout(SERVED_WITHIN_S)
                return self._serves(connection) and time.monotonic() < deadline
        except (OSError, AssertionError):
            return False

    def _serves(self, connection: socket.socket) -> bool:
        with session(_Once(self.pid, connection)) as client:
            buffer = client.alloc(BUFFER_BYTES)
            client.send(set_tensor(buffer.bytes_at(), 0, SECRET))
            return client.read(buffer) == SECRET


@dataclass(frozen=True)
class _Once:
    """A reach of one connection, made already."""

    pid: int
    connection: socket.socket

    def connect(self) -> socket.socket:
        return self.connection


@contextlib.contextmanager
def running(stock: Path, scratch: Path, options: tuple[str, ...], space_bytes: int) -> Iterator[Stock]:
    """A server that listens. Gone afterwards, whatever it was doing."""
    port = _free_port()
    server = [str(stock / WORKER), "-H", "127.0.0.1", "-p", str(port), "-t", "1", *options]
    arguments = ["/bin/sh", "-c", LIMITED, "sh", str(CPU_LIMIT_S), str(space_bytes >> 10), *server]
    # Its cache, where it has one, is as new as it is.
    environment = {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", "LLAMA_CACHE": str(scratch), "GGML_NO_BACKTRACE": "1"}
    log_path = scratch / "stock.log"
    with log_path.open("wb") as log, subprocess.Popen(arguments, env=environment, stdout=log, stderr=log) as process:
        try:
            eventually(lambda: _listens(port), lambda: f"the stock server listens: {log_path.read_text()}")
            yield Stock(process, port)
        finally:
            process.kill()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def host_gib() -> int:
    return round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30)
