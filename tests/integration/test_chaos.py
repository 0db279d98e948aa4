"""A short run under faults: whatever dies, every stream gets its answer, whole and right."""

from __future__ import annotations

from pathlib import Path

from whole_mesh import new_key, short_home

from rpcmesh.bench import chaos
from rpcmesh.bench.faults import FAULTS
from rpcmesh.native_build import Build

# Every kind of fault at least once. Of equal wishes the faults are equal, the moments are not.
WISHES = chaos.Wishes(seed=3, faults=len(FAULTS) + 2, streams=4, nodes=3, max_tokens=120)


async def test_no_stream_is_lost_and_no_token_is_missing_doubled_or_wrong(build: Build, smollm2: Path) -> None:
    with short_home() as home:
        outcome = await chaos.run(home, build, smollm2, WISHES, new_key, lambda _: None)

    assert len(outcome.happened) == WISHES.faults >= 10
    assert {each.kind for each in outcome.happened} == set(FAULTS)
    assert (outcome.lost, outcome.miscounted, outcome.wrong_tokens) == ((), 0, 0)
    # A run whose faults nobody feels would prove nothing.
    assert sum(each.recovery_s is not None for each in outcome.happened) >= WISHES.faults // 2
    assert outcome.streams >= WISHES.streams
    assert outcome.tokens == outcome.streams * WISHES.max_tokens
