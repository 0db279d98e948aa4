"""``rpcmesh chat``: talk to the model through the same endpoint that clients use."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path

import click

from rpcmesh import config, paths
from rpcmesh.cli.output import err, out, plain
from rpcmesh.cli.status import fetch
from rpcmesh.coordinator import founding
from rpcmesh.demo import ask
from rpcmesh.errors import RpcmeshError
from rpcmesh.gateway import keys

# The key that a chat on the coordinator makes for itself ends by itself, should the chat be killed.
KEY_LIFE_S = 3600.0


@click.command(short_help="Talk to the model.")
@click.argument("prompt", required=False)
@click.option("--url", help="The endpoint, for example https://host:8443/v1. Default: this machine's coordinator.")
@click.option("--ca-file", type=click.Path(path_type=Path, exists=True), help="The mesh's CA certificate, with --url.")
@click.option("--model", help="Which model, with --url.")
@click.option("--max-tokens", type=click.IntRange(1), default=512, show_default=True)
@click.option("--temperature", type=click.FloatRange(0, 2), default=0.7, show_default=True)
def chat(
    prompt: str | None, url: str | None, ca_file: Path | None, model: str | None, max_tokens: int, temperature: float
) -> None:
    """Ask PROMPT, or hold a conversation when none is given (an empty line or Ctrl-D ends it).

    On the coordinator nothing more is needed. Elsewhere give --url, --ca-file and --model, and the API key in the
    environment as RPCMESH_API_KEY.
    """
    with _endpoint(url, ca_file, model) as endpoint:
        turns: list[ask.Turn] = []
        for question in [prompt] if prompt is not None else _questions():
            turns.append(ask.Turn(role="user", content=question))
            answer = asyncio.run(
                ask.stream(
                    endpoint,
                    turns,
                    max_tokens=max_tokens,
                    temperature=temperature,
                    on_text=lambda text: out.print(plain(text), end=""),
                )
            )
            out.print()
            turns.append(ask.Turn(role="assistant", content=answer.text))


@contextlib.contextmanager
def _endpoint(url: str | None, ca_file: Path | None, model: str | None) -> Iterator[ask.Endpoint]:
    if url is None:
        with _own_endpoint(model) as endpoint:
            yield endpoint
        return
    api_key = os.environ.get("RPCMESH_API_KEY", "")
    if ca_file is None or model is None or not api_key:
        raise RpcmeshError(
            "with --url a chat needs --ca-file, --model and RPCMESH_API_KEY",
            hint="on the coordinator: rpcmesh key create, and copy authority/ca.pem from its RPCMESH_HOME",
        )
    yield ask.Endpoint(url=url.rstrip("/"), api_key=api_key, ca_file=ca_file, model=model)


@contextlib.contextmanager
def _own_endpoint(model: str | None) -> Iterator[ask.Endpoint]:
    """The coordinator of this home, with a key that lives as long as the chat."""
    report = fetch()
    if not report.ready:
        raise RpcmeshError(f"the mesh is not ready: {report.reason}", hint="rpcmesh status")
    home = paths.Home(paths.default_home())
    now = time.time()
    secret, made = keys.mint("chat", now, now + KEY_LIFE_S)
    with founding.open_mesh(home) as mesh:
        mesh.store.add_key(made, founding.ACTOR, now)
        # The certificate is always good for loopback, where the endpoint is unless it listens on one address alone.
        host, port = config.parse_address(mesh.settings.coordinator.listen)
        address = config.join_address("127.0.0.1" if host in founding.EVERYWHERE else host, port)
        try:
            yield ask.Endpoint(
                url=f"https://{address}/v1",
                api_key=secret,
                ca_file=home.authority / "ca.pem",
                model=model or report.model.name,
            )
        finally:
            mesh.store.revoke_key(made.id, founding.ACTOR, time.time())


def _questions() -> Iterator[str]:
    while True:
        try:
            question = click.prompt(
                click.style("you", bold=True), prompt_suffix="> ", default="", show_default=False, err=True
            )
        except click.Abort:
            err.print()
            return
        if not question.strip():
            return
        yield question
