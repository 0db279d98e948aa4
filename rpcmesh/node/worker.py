"""llama.cpp's RPC server as a service: on a Unix socket, with an environment that holds nothing of ours."""

from __future__ import annotations

from rpcmesh.native_build import Build
from rpcmesh.paths import Home, private_dir
from rpcmesh.supervise.supervisor import Service

# The engine's worker, and one for `rpcmesh connect` that exists only while it is wanted.
ENGINE_WORKER = "w0"
GUEST_WORKER = "guest"
# Before it aborts ggml would start a debugger on itself, which the worker need not have and which takes seconds.
ENVIRONMENT = {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", "GGML_NO_BACKTRACE": "1"}


def service(home: Home, build: Build, name: str, threads: int) -> Service:
    """``threads`` 0 leaves the number to ggml."""
    socket = home.socket(name)
    # The port is not used with a path, yet the option must be there and not 0.
    argv = [str(build.worker), "-H", str(socket), "-p", "1"]
    if threads:
        argv += ["-t", str(threads)]
    return Service(
        name=f"worker-{name}",
        argv=tuple(argv),
        env=ENVIRONMENT,
        socket=socket,
        cwd=private_dir(home.root / "scratch"),
        grace_s=2.0,
        prepare=build.verify,
    )
