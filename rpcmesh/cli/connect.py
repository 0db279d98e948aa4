"""``rpcmesh connect``: a stock llama.cpp client through the mesh, on a guarded loopback port."""

from __future__ import annotations

import asyncio

import click

from rpcmesh import config, paths
from rpcmesh.cli.build import configured
from rpcmesh.cli.output import err, out
from rpcmesh.cli.running import run, until_stopped
from rpcmesh.coordinator import admin
from rpcmesh.coordinator.agent_client import AgentClient
from rpcmesh.errors import PeerError, RpcmeshError
from rpcmesh.native_build import Build
from rpcmesh.node.guest import WANTED_S
from rpcmesh.node.worker import GUEST_WORKER
from rpcmesh.pki import names
from rpcmesh.supervise import child
from rpcmesh.tunnel import command


@click.command(short_help="Lend a worker to a stock llama.cpp client.")
@click.argument("node")
@click.option("--listen", default="127.0.0.1:50052", show_default=True, help="A loopback address for the client.")
def connect(node: str, listen: str) -> None:
    """Give a stock llama.cpp client a worker of its own on NODE, until Ctrl-C.

    The client gets a plaintext port on this machine's loopback; everything beyond it is mutual TLS. A running model is
    not disturbed. Run this on the coordinator, then for example: llama-bench --rpc 127.0.0.1:50052 -ngl 99 -m MODEL
    """
    names.check_name(node, "node")
    home = paths.Home(paths.default_home())
    settings = config.load(home.config)
    built = configured(settings.build)
    run(until_stopped(lambda stop: _serve(home, built, node, listen, stop)))


async def _serve(home: paths.Home, built: Build, node: str, listen: str, stop: asyncio.Event) -> None:
    members = (await admin.AdminClient(home.socket(admin.SOCKET_NAME)).status()).nodes
    if node not in {member.name for member in members}:
        raise RpcmeshError(f"no node of this mesh is named {node!r}", hint="rpcmesh node ls")
    agent = AgentClient(home.socket(f"{node}.agent"))
    try:
        await _want(agent, node)
        argv = command.loopback(built.tunnel, listen=listen, to=home.socket(f"{node}.{GUEST_WORKER}"))
        listening = asyncio.Event()

        def on_line(line: str) -> None:
            if command.says_listening(line):
                listening.set()

        async with child.running("connect", argv, env={}, on_line=on_line) as tunnel, asyncio.TaskGroup() as group:
            keeping = group.create_task(_keep(agent, node))
            watching = group.create_task(_watch(tunnel, listen))
            await listening.wait()
            out.print(
                f"a worker of {node} is at {listen}, for example: llama-bench --rpc {listen} -ngl 99 -m MODEL.gguf"
            )
            err.print("until Ctrl-C; anybody on this machine can use the port meanwhile", style="dim")
            await stop.wait()
            keeping.cancel()
            watching.cancel()
    finally:
        await agent.close()


async def _keep(agent: AgentClient, node: str) -> None:
    while True:
        await asyncio.sleep(WANTED_S / 3)
        await _want(agent, node)


async def _want(agent: AgentClient, node: str) -> None:
    try:
        await agent.want_guest()
    except PeerError as error:
        raise RpcmeshError(f"node {node!r} cannot lend a worker: {error.message}", hint="rpcmesh node ls") from error


async def _watch(tunnel: child.Child, listen: str) -> None:
    ended = await tunnel.wait()
    if ended.code == command.EXIT_ADDRESS_IN_USE:
        raise command.address_in_use(listen)
    said = tunnel.tail[0].removeprefix("rpcmesh-tunnel: ") if tunnel.tail else str(ended)
    raise RpcmeshError(f"the port cannot be opened: {said}", hint="rpcmesh connect --help")
