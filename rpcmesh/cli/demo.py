"""``rpcmesh demo``: the whole of it on this machine, shown and then removed."""

from __future__ import annotations

import time
from pathlib import Path

import click
import msgspec

from rpcmesh import config, paths
from rpcmesh.cli import progress
from rpcmesh.cli.build import open_or_build
from rpcmesh.cli.output import err, out, plain, print_json, print_table
from rpcmesh.cli.running import hold_signals, run, stopped_early, until_interrupted
from rpcmesh.cli.status import layer_range
from rpcmesh.coordinator import founding
from rpcmesh.coordinator.report import StatusReport
from rpcmesh.demo import ask, kill, local_mesh
from rpcmesh.demo import home as demo_home
from rpcmesh.demo.kill import Killed, kill_and_go_on
from rpcmesh.gateway import keys
from rpcmesh.models import catalog, library
from rpcmesh.native_build import Build

MODEL = "smollm2-135m-instruct"
QUESTION = "What is the capital of France? Answer in one sentence."
READY_LIMIT_S = 180.0
MAX_TOKENS = 200


class WorkerShown(msgspec.Struct, frozen=True):
    node: str
    layers: str
    tls_version: str
    cipher: str


class Shown(msgspec.Struct, frozen=True, omit_defaults=True):
    """What ``--json`` prints; ``kill`` only with ``--kill-node``, the four behind it only with ``--keep``."""

    question: str
    answer: str
    prompt_tokens: int
    completion_tokens: int
    tokens_per_s: float
    time_to_first_token_s: float
    model: str
    build_id: str
    workers: tuple[WorkerShown, ...]
    kill: Killed | None = None
    url: str | None = None
    api_key: str | None = None
    ca_file: str | None = None
    home: str | None = None


class Wishes(msgspec.Struct, frozen=True):
    """The command line, parsed."""

    nodes: tuple[str, ...]
    prompt: str
    kill_node: bool
    keep: bool
    as_json: bool


@click.command(short_help="See it all work on this machine.")
@click.option("--nodes", type=click.IntRange(1, 8), default=2, show_default=True, help="How many nodes to start.")
@click.option("--prompt", default=QUESTION, show_default=True, help="What to ask.")
@click.option("--kill-node", is_flag=True, help="Kill a node in the middle of a second answer, which goes on.")
@click.option("--keep", is_flag=True, help="Stay up until interrupted, for any OpenAI client.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object in place of text.")
def demo(nodes: int, prompt: str, kill_node: bool, keep: bool, as_json: bool) -> None:
    """Start a coordinator and nodes on this machine, and ask them a question.

    Real processes, identities, join tokens, tunnels and a real model; nothing is left behind. With RPCMESH_HOME set,
    that is the coordinator's home while the demo runs.
    """
    if kill_node and nodes == 1:
        raise click.UsageError("--kill-node needs a node that is left: --nodes 2 or more")
    wishes = Wishes(tuple(f"node-{number}" for number in range(1, nodes + 1)), prompt, kill_node, keep, as_json)
    built = open_or_build("auto", None)
    with progress.task(f"model {MODEL}") as report:
        model_file = catalog.pull(MODEL, paths.default_cache(), report)
    hold_signals()
    with demo_home.claimed(wishes.nodes) as home:
        run(stopped_early(_run(home, built, model_file, wishes)))
    if not as_json:
        err.print(
            "\neverything is stopped and removed" + ("" if keep else "; to keep it running: rpcmesh demo --keep"),
            style="dim",
        )


async def _run(home: paths.Home, built: Build, model_file: Path, wishes: Wishes) -> None:
    library.add(home, model_file, MODEL)
    async with local_mesh.running(home, built) as mesh:
        report = await _bring_up(mesh, wishes)
        endpoint = ask.Endpoint(url=mesh.url, api_key=demo_key(home), ca_file=mesh.ca_file, model=MODEL)
        answer = await _ask(endpoint, wishes)
        shown = _shown(wishes, answer, report)
        if not wishes.as_json:
            _print(shown)
        if wishes.kill_node:
            shown = msgspec.structs.replace(shown, kill=await _kill(mesh, endpoint, model_file, wishes))
        if wishes.keep:
            kept = {"url": mesh.url, "api_key": endpoint.api_key, "ca_file": str(mesh.ca_file), "home": str(home.root)}
            shown = msgspec.structs.replace(shown, **kept)
        if wishes.as_json:
            print_json(shown)
        elif wishes.keep:
            _print_kept(shown)
        if wishes.keep:
            await until_interrupted()


async def _bring_up(mesh: local_mesh.LocalMesh, wishes: Wishes) -> StatusReport:
    with progress.task("coordinator") as report:
        report("start", 0.0)
        await mesh.found(config.Engine(model=MODEL, min_workers=len(wishes.nodes)))
    with progress.task("nodes") as report:
        for number, name in enumerate(wishes.nodes):
            report(f"{name} joins", number / len(wishes.nodes))
            await mesh.join(name)
            await mesh.run_node(name)
    with progress.task("load over mutual TLS") as report:
        return await mesh.ready(lambda seen: report(seen.model.state, seen.model.progress), READY_LIMIT_S)


def demo_key(home: paths.Home) -> str:
    """A new API key of the mesh in ``home``."""
    now = time.time()
    secret, made = keys.mint("demo", now)
    with founding.open_mesh(home) as opened:
        opened.store.add_key(made, founding.ACTOR, now)
    return secret


async def _ask(endpoint: ask.Endpoint, wishes: Wishes) -> ask.Answer:
    turns = [ask.Turn(role="user", content=wishes.prompt)]
    if not wishes.as_json:
        out.print("\nquestion", style="bold", end="  ")
        out.print(wishes.prompt)
        out.print("answer", style="bold", end="    ")

    def show(text: str) -> None:
        if not wishes.as_json:
            out.print(plain(text), end="")

    answer = await ask.stream(endpoint, turns, max_tokens=MAX_TOKENS, temperature=0.0, on_text=show)
    if not wishes.as_json:
        out.print("\n")
    return answer


def _shown(wishes: Wishes, answer: ask.Answer, report: StatusReport) -> Shown:
    links = {link.route.partition(".")[0]: link for link in report.links if link.route.endswith(".w0")}
    return Shown(
        question=wishes.prompt,
        answer=answer.text,
        prompt_tokens=answer.prompt_tokens,
        completion_tokens=answer.completion_tokens,
        tokens_per_s=round(answer.tokens_per_s, 1),
        time_to_first_token_s=round(answer.time_to_first_token_s, 3),
        model=MODEL,
        build_id=report.build_id,
        workers=tuple(
            WorkerShown(
                node=part.node,
                layers=layer_range(part.layers) + (" + output" if part.output else ""),
                tls_version=links[part.node].tls_version,
                cipher=links[part.node].cipher,
            )
            for part in report.model.placement
            if part.node is not None
        ),
    )


def _print(shown: Shown) -> None:
    out.print(
        f"{shown.prompt_tokens} prompt and {shown.completion_tokens} completion tokens, "
        f"{shown.tokens_per_s} tokens/s, first token after {shown.time_to_first_token_s * 1000:.0f} ms\n"
    )
    rows = [(worker.node, worker.layers, worker.tls_version, worker.cipher) for worker in shown.workers]
    print_table(("WORKER ON", "LAYERS", "TLS", "CIPHER"), rows, empty="")


async def _kill(mesh: local_mesh.LocalMesh, endpoint: ask.Endpoint, model_file: Path, wishes: Wishes) -> Killed:
    node = wishes.nodes[-1]
    if wishes.as_json:
        return await kill_and_go_on(mesh, endpoint, node, model_file, lambda _: None)
    out.print("\nquestion", style="bold", end="  ")
    out.print(kill.QUESTION)
    out.print("answer", style="bold", end="    ")

    def show(text: str) -> None:
        out.print(plain(text), end="")

    killed = await kill_and_go_on(mesh, endpoint, node, model_file, show)
    out.print("\n")
    out.print(
        f"{killed.node} was killed, with all its processes, after {killed.tokens_before} tokens; "
        f"the next one came after {killed.recovery_s:.2f} s"
    )
    stages = ", ".join(f"{stage.replace('_', ' ')} {after_s:.2f} s" for stage, after_s in killed.stages.items())
    out.print(f"since the loss was noticed: {stages}")
    verdict = "every token is" if killed.sent_intact and killed.continuation_valid else "NOT every token is"
    out.print(f"checked by an engine of its own: {verdict} the model's choice behind those before it")
    return killed


def _print_kept(shown: Shown) -> None:
    out.print(f"\nurl      {shown.url}\nkey      {shown.api_key}\nca file  {shown.ca_file}\nhome     {shown.home}\n")
    out.print("any OpenAI client can talk to it, for example:")
    out.print(f'  curl --cacert {shown.ca_file} -H "Authorization: Bearer {shown.api_key}" {shown.url}/models')
    out.print(f"its own verbs work too: RPCMESH_HOME={shown.home} rpcmesh status")
    err.print("running until Ctrl-C", style="dim")
