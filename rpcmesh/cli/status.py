"""``rpcmesh status``: what is up, what is not, and why."""

from __future__ import annotations

import asyncio

import click

from rpcmesh import paths
from rpcmesh.cli.output import out, print_json, print_table
from rpcmesh.coordinator import admin
from rpcmesh.coordinator.report import ModelReport, NodeReport, StatusReport
from rpcmesh.firewall.watch import State
from rpcmesh.gateway.request_queue import Figures
from rpcmesh.node.status import WorkerStatus
from rpcmesh.words import size, span


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print the whole status document as JSON.")
def status(as_json: bool) -> None:
    """Show the mesh as its coordinator sees it. Exit status 0 when it answers requests, 1 when it does not."""
    report = fetch()
    if as_json:
        print_json(report)
    else:
        show(report)
    if not report.ready:
        raise SystemExit(1)


def fetch() -> StatusReport:
    """Ask this home's coordinator."""
    home = paths.Home(paths.default_home())
    return asyncio.run(admin.AdminClient(home.socket(admin.SOCKET_NAME)).status())


def show(report: StatusReport) -> None:
    """Print ``report`` for people."""
    out.print(f"mesh {report.mesh}", end="  ")
    out.print("ready" if report.ready else "not ready", style="green" if report.ready else "red", end="")
    why = "" if report.ready else f": {report.reason}"
    out.print(f"{why}  {report.endpoint}  build {report.build_id}  up {span(report.uptime_s)}")
    out.print(model_line(report.model))
    out.print(f"requests  {requests_word(report.requests)}")
    out.print(firewall_line(report))
    out.print()
    print_nodes(report.nodes)
    if report.links:
        out.print()
        print_table(
            ("LINK", "TLS", "CIPHER", "SENT", "RECEIVED"),
            [
                (link.route, link.tls_version, link.cipher, size(link.bytes_out), size(link.bytes_in))
                for link in report.links
            ],
            empty="",
        )


def model_line(model: ModelReport) -> str:
    """One line: the model, its state, and which layers lie where."""
    if not model.name:
        return "model  none chosen: rpcmesh serve --model NAME"
    where = ", ".join(f"{part.node or 'here'}: {layer_range(part.layers)}" for part in model.placement if part.layers)
    detail = {"loading": f" {model.progress:.0%}", "ready": f"  layers {where}"}.get(model.state, "")
    return f"model {model.name}  {model.state}{detail}" + (f"  ({model.reason})" if model.reason else "")


def requests_word(figures: Figures) -> str:
    """How many decode, how many wait, and how many were turned away, if any were."""
    refused = sum(figures.refused.values())
    return f"{figures.running} running, {figures.waiting} waiting" + (
        f", {refused} refused since the start" if refused else ""
    )


def firewall_line(report: StatusReport) -> str:
    """One line: the firewall of each machine that says something of it, and why one is not as meant."""
    found = {"here": report.firewall} | {node.name: node.agent.firewall for node in report.nodes if node.agent}
    said = [
        f"{machine} {status.state.value}" + (f" ({status.reason})" if status.state is State.DRIFT else "")
        for machine, status in found.items()
    ]
    return f"firewall  {', '.join(said)}"


def layer_range(layers: tuple[int, ...]) -> str:
    """``(0, 1, 2, 5)`` → ``0-2,5``."""
    runs: list[list[int]] = []
    for layer in sorted(layers):
        if runs and runs[-1][1] == layer - 1:
            runs[-1][1] = layer
        else:
            runs.append([layer, layer])
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in runs) or "-"


def sandbox_word(workers: tuple[WorkerStatus, ...]) -> str:
    """The states of the workers' sandboxes, each once: ``confined`` where all is well."""
    return ", ".join(dict.fromkeys(worker.sandbox.state for worker in workers)) or "-"


def print_nodes(nodes: tuple[NodeReport, ...]) -> None:
    """The table of ``rpcmesh node ls``."""
    rows = []
    for node in nodes:
        workers = node.agent.workers if node.agent else ()
        rows.append(
            (
                node.name,
                node.address,
                node.state,
                ", ".join(f"{worker.name} {worker.state}" for worker in workers) or "-",
                sandbox_word(workers),
                node.agent.build_id if node.agent else "-",
                node.agent.os if node.agent else "-",
                node.reason or "-",
            )
        )
    print_table(
        ("NODE", "ADDRESS", "STATE", "WORKERS", "SANDBOX", "BUILD", "OS", "WHY"),
        rows,
        empty="no node yet: rpcmesh token create",
    )
