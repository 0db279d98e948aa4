"""A mesh under faults drawn by lot: does every stream get its answer, whole and right, and how long does it wait?"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from pathlib import Path

import msgspec

from rpcmesh import config
from rpcmesh.bench.faults import FAULTS
from rpcmesh.bench.rounds import percentile
from rpcmesh.bench.streams import Told, ask_on
from rpcmesh.demo import local_mesh
from rpcmesh.demo.ask import Endpoint
from rpcmesh.engine import reference
from rpcmesh.engine.messages import Score, TextPrompt
from rpcmesh.models import library
from rpcmesh.native_build import Build
from rpcmesh.paths import Home

MODEL = "smollm2"
READY_LIMIT_S = 180.0
# After a fault, the mesh is whole again and streams are under way before the next one.
WHOLE_LIMIT_S = 60.0
POLL_S = 0.05
# A pause shorter than this is no disturbance: a prefill beside it, or a busy machine.
DISTURBED_S = 0.25
# And one that begins later than this after a fault has another cause.
SOON_S = 1.0


class Wishes(msgspec.Struct, frozen=True):
    """Equal wishes draw equal faults; when exactly they meet the streams is the machine's.

    ``crowded`` is the share of faults that the next one follows before streams have recovered.
    """

    seed: int
    faults: int
    streams: int
    nodes: int
    max_tokens: int
    crowded: float = 0.2


class Fell(msgspec.Struct, frozen=True):
    """A fault, and when. ``crowded``: another one came so soon before or after it that their waits are one."""

    kind: str
    node: str
    at: float
    crowded: bool = False


class Happened(msgspec.Struct, frozen=True):
    """``recovery_s``: until the last of the streams that were open had a token again. None: no stream was disturbed."""

    kind: str
    node: str
    crowded: bool
    open_streams: int
    recovery_s: float | None


class Outcome(msgspec.Struct, frozen=True):
    """``wrong_tokens`` are not the model's own choice; ``miscounted`` streams lost or doubled a token.

    Recovery is that from single faults; ``crowded_max_s`` is the longest wait where several came together.
    """

    seed: int
    happened: tuple[Happened, ...]
    streams: int
    tokens: int
    lost: tuple[str, ...]
    miscounted: int
    wrong_tokens: int
    worst_margin: float
    recovery_p50_s: float
    recovery_p95_s: float
    recovery_max_s: float
    crowded_max_s: float

    @property
    def clean(self) -> bool:
        return not self.lost and not self.miscounted and not self.wrong_tokens


async def run(
    home: Home,
    build: Build,
    model_file: Path,
    wishes: Wishes,
    make_key: Callable[[Home], str],
    say: Callable[[str], None],
) -> Outcome:
    """``say`` gets a line for each fault. The home is the caller's to remove."""
    names = [f"node-{number}" for number in range(1, wishes.nodes + 1)]
    library.add(home.ensure(), model_file, MODEL)
    async with local_mesh.running(home, build) as mesh:
        # A node that is held out would not feel what befalls it.
        await mesh.found(
            config.Engine(model=MODEL, min_workers=wishes.nodes, n_ctx=512, n_seq_max=wishes.streams, hold_out_max_s=0)
        )
        for name in names:
            await mesh.join(name)
            await mesh.run_node(name)
        await mesh.ready(lambda _: None, READY_LIMIT_S)
        endpoint = Endpoint(mesh.url, make_key(home), mesh.ca_file, MODEL)
        told: list[Told] = []
        stop = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            for number in range(wishes.streams):
                group.create_task(ask_on(endpoint, number, wishes.seed, wishes.max_tokens, told, stop))
            fallen = await _inject(mesh, names, wishes, told, say)
            stop.set()
    whole = [answer for answer in told if not answer.error]
    asked = [Score(str(n), TextPrompt(each.prompt), tuple(each.token_ids)) for n, each in enumerate(whole)]
    margins = await reference.margins(build.lib_dir, model_file, asked)
    return judge(wishes, fallen, told, margins)


async def _inject(
    mesh: local_mesh.LocalMesh,
    names: Sequence[str],
    wishes: Wishes,
    told: Sequence[Told],
    say: Callable[[str], None],
) -> list[Fell]:
    chance = random.Random(wishes.seed)  # noqa: S311 (repeatable on purpose)
    fallen: list[Fell] = []
    crowds = False
    for number, kind in enumerate(drawn(wishes.faults, chance)):
        node = chance.choice(names)
        before_s, follows, crowds = chance.uniform(0.5, 2.0), crowds, chance.random() < wishes.crowded
        await asyncio.sleep(before_s)
        fell = Fell(kind, node, time.perf_counter(), follows or crowds)
        fallen.append(fell)
        say(f"{number + 1}/{wishes.faults}  {kind}  {node}{'  (crowded)' if fell.crowded else ''}")
        await FAULTS[kind].happen(mesh, node)
        await FAULTS[kind].mend(mesh, node)
        if not crowds:
            await _until(partial(_all_go_on, told, fell.at), "every stream had a token again")
            await _until(partial(_is_whole, mesh, len(names)), "the mesh was whole again")
    return fallen


def drawn(count: int, chance: random.Random) -> list[str]:
    """``count`` kinds of fault by lot, none twice before all others have been drawn."""
    kinds: list[str] = []
    while len(kinds) < count:
        kinds += chance.sample([*FAULTS], len(FAULTS))
    return kinds[:count]


async def _all_go_on(told: Sequence[Told], at: float) -> bool:
    """Whether every stream that was open at ``at`` has ended, or had a token when the fault must have been felt."""
    open_then = [answer for answer in told if answer.began < at and not answer.ended]
    return all(answer.arrivals and answer.arrivals[-1] > at + SOON_S for answer in open_then)


async def _is_whole(mesh: local_mesh.LocalMesh, nodes: int) -> bool:
    report = await mesh.admin.status()
    return report.ready and sum(node.state == "up" for node in report.nodes) == nodes


async def _until(holds: Callable[[], Awaitable[bool]], what: str) -> None:
    deadline = time.monotonic() + WHOLE_LIMIT_S
    while not await holds():
        if time.monotonic() > deadline:
            raise TimeoutError(f"it took more than {WHOLE_LIMIT_S:.0f} s until {what}")
        await asyncio.sleep(POLL_S)


def judge(
    wishes: Wishes,
    fallen: Sequence[Fell],
    told: Sequence[Told],
    margins: Sequence[tuple[float, ...]],
) -> Outcome:
    """What the noted times and the reference engine's ``margins`` of the answers without an error amount to."""
    happened = tuple(Happened(fell.kind, fell.node, fell.crowded, *recovery_of(fell.at, told)) for fell in fallen)
    waits, crowded = waits_of(happened, crowded=False), waits_of(happened, crowded=True)
    all_margins = [margin for answer in margins for margin in answer]
    return Outcome(
        seed=wishes.seed,
        happened=happened,
        streams=len(told),
        tokens=sum(len(answer.token_ids) for answer in told),
        lost=tuple(answer.error for answer in told if answer.error),
        miscounted=sum(not answer.error and answer.counted != len(answer.token_ids) for answer in told),
        wrong_tokens=sum(margin > reference.MARGIN_MAX for margin in all_margins),
        worst_margin=round(max(all_margins, default=0.0), 3),
        recovery_p50_s=round(percentile(waits, 0.5), 3),
        recovery_p95_s=round(percentile(waits, 0.95), 3),
        recovery_max_s=round(percentile(waits, 1.0), 3),
        crowded_max_s=round(percentile(crowded, 1.0), 3),
    )


def waits_of(happened: Sequence[Happened], *, crowded: bool) -> list[float]:
    """The waits of the streams, shortest first, for faults that came alone or for those that did not."""
    return sorted(each.recovery_s for each in happened if each.crowded is crowded and each.recovery_s is not None)


def recovery_of(at: float, told: Sequence[Told]) -> tuple[int, float | None]:
    """How many streams were open at ``at``, and how long the last of those that then fell silent had to wait."""
    at_the_time = [answer for answer in told if answer.began < at < answer.ended]
    waits = [wait for answer in at_the_time if (wait := _wait(at, answer.arrivals)) is not None]
    return len(at_the_time), round(max(waits), 3) if waits else None


def _wait(at: float, arrivals: Sequence[float]) -> float | None:
    """From ``at`` to the end of the silence that began soon after it."""
    last = at
    for arrival in arrivals:
        if last - at > SOON_S:
            return None
        if arrival > at and arrival - last >= DISTURBED_S:
            return arrival - at
        last = max(last, arrival)
    return None
