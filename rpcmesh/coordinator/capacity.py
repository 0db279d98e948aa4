"""How much memory each worker could give a model, from what its node says, and what is put on it. Pure."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from rpcmesh import config
from rpcmesh.node.status import AgentStatus, Device, WorkerStatus
from rpcmesh.plan.facts import ModelFacts
from rpcmesh.plan.fit import MARGIN_BYTES, Plan, TooSmall, Wish, plan

# The name of ggml's device for a machine's own memory. What it has free changes; a card is the worker's alone.
MAIN_MEMORY = "CPU"
# What a card's kernels and libraries take with the first graph, beside all that was asked for before: on an H100, 136
# MiB were too few and 236 enough. A worker that does not get them dies, and its client with it. Every device's margin
# is part of it.
CARD_RESERVE_BYTES = (256 << 20) - MARGIN_BYTES
# Tokens of a piece on cards, which share more among more. On an H100 prefill was within 6 % of its best with 512, with
# models from 1 to 14 billion parameters and with 1 and 2 workers; with 64 it was at a third to two thirds of it.
CARD_PIECE = 512


class Placed(msgspec.Struct, frozen=True):
    """``layers[w]``: how many on each device of worker ``w``, the output head counted as one. Empty: not planned."""

    n_ctx: int
    layers: tuple[tuple[int, ...], ...]


def place(
    free: Sequence[tuple[int, ...]], facts: ModelFacts | None, engine: config.Engine, n_ctx: int
) -> Placed | TooSmall:
    """Put the model on workers whose devices have ``free`` bytes, with at most ``n_ctx`` tokens a sequence.

    Where a worker has not said what it has, or the model not what it needs, llama.cpp divides the layers as it loads.
    """
    if facts is None or not free or not all(free):
        return Placed(n_ctx, ((),) * len(free))
    wish = Wish(n_ctx, engine.n_ctx_min, engine.n_seq_max, max(engine.n_batch, engine.n_seq_max))
    found = plan(facts, [each for devices in free for each in devices], wish)
    if isinstance(found, TooSmall):
        return found
    return Placed(found.n_ctx, _by_worker(found, [len(devices) for devices in free]))


def _by_worker(found: Plan, n_devices: list[int]) -> tuple[tuple[int, ...], ...]:
    counts = iter(found.counts)
    return tuple(tuple(next(counts) for _ in range(n)) for n in n_devices)


def device_bytes(agent: AgentStatus | None, worker: str) -> tuple[int, ...]:
    """What each device of the node's worker would have free if it held nothing. Empty when it is not known."""
    found = _worker(agent, worker)
    if agent is None or found is None:
        return ()
    return tuple(_limited(agent, [_free(agent, found, device) for device in found.devices]))


def on_cards(agent: AgentStatus | None, worker: str) -> bool:
    """Whether the node's worker is known to compute on cards alone."""
    found = _worker(agent, worker)
    names = {device.name for device in found.devices} if found else set()
    return bool(names) and MAIN_MEMORY not in names


def _worker(agent: AgentStatus | None, name: str) -> WorkerStatus | None:
    return next((each for each in agent.workers if each.name == name), None) if agent else None


def _free(agent: AgentStatus, worker: WorkerStatus, device: Device) -> int:
    if device.name != MAIN_MEMORY:
        return max(0, (device.free_mib << 20) - CARD_RESERVE_BYTES)
    # What the worker holds now it will have given back before the next engine comes.
    return min(agent.memory_available_bytes + worker.rss_bytes, device.total_mib << 20)


def _limited(agent: AgentStatus, free: list[int]) -> list[int]:
    """The node's limit counts for all devices together: each gets the part of it that it has of the memory."""
    limit, total = agent.memory_limit_bytes, sum(free)
    if not limit or total <= limit:
        return free
    return [each * limit // total for each in free]
