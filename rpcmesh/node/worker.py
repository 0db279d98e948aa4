"""llama.cpp's RPC server as a service: confined, on a Unix socket, with an environment that holds nothing of ours."""

from __future__ import annotations

from pathlib import Path

from rpcmesh.native_build import Build
from rpcmesh.node import sandbox, walls
from rpcmesh.paths import Home
from rpcmesh.supervise.supervisor import Service

# The engine's worker, and one for `rpcmesh connect` that exists only while it is wanted.
ENGINE_WORKER = "w0"
GUEST_WORKER = "guest"
# Before it aborts ggml would start a debugger on itself, which the worker need not have and which takes seconds.
ENVIRONMENT = {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", "GGML_NO_BACKTRACE": "1"}


def service(home: Home, build: Build, name: str, threads: int, confined: sandbox.Walls) -> Service:
    """``threads`` 0 leaves the number to ggml."""
    folder, socket = home.worker_dir(name), home.worker_socket(name)
    # The port is not used with a path, yet the option must be there and not 0.
    arguments = ("-p", "1", *(("-t", str(threads)) if threads else ()))

    def prepare() -> None:
        build.verify()
        walls.make_folder(folder, confined.account)

    return Service(
        name=f"worker-{name}",
        argv=sandbox.command(confined, build, folder, socket.name, arguments),
        env=ENVIRONMENT,
        socket=socket,
        # ggml looks for backends to load in its working directory: it must be one in which nothing can be made.
        cwd=Path("/"),
        grace_s=2.0,
        fatal={sandbox.EXIT_NOT_CONFINED: sandbox.NOT_CONFINED} if confined.asked == "required" else {},
        prepare=prepare,
    )
