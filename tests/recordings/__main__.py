"""Makes the recordings again: each model by a stock client, through a relay, on a bare worker."""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

from meshed_engine import worker

from recordings import client, models, recording, variants
from recordings.models import Kind
from recordings.recording import Entry
from recordings.relay import Relay, relaying
from recordings.variants import FLASH_Q8, PLAIN, Variant
from rpcmesh import native_build, paths
from rpcmesh.models import catalog

FOLDER = Path(__file__).parent
SMOLLM2 = "smollm2"
# Thirty layers make large graphs, and the ways of attention are covered by the small models.
LARGE: dict[str, tuple[Variant, ...]] = {SMOLLM2: (PLAIN, FLASH_Q8), "qwen3moe-deep": (PLAIN,)}


def main(names: list[str]) -> None:
    """All of them, or those that are named."""
    build = native_build.build(
        cache=paths.default_cache(), native=paths.shipped("native"), backend="cpu", llama=None, progress=lambda *_: None
    )
    with tempfile.TemporaryDirectory(prefix="rm-", dir="/tmp") as scratch, worker(build, "node") as (spec, _):
        listening = Path(scratch) / "relay.sock"
        with relaying(listening, Path(spec.endpoint.removesuffix(":1"))) as relay:
            for name in names or [SMOLLM2, *models.BY_NAME]:
                began = time.monotonic()
                file, kind = _model(name, Path(scratch))
                client.run(build.lib_dir, file, kind, LARGE.get(name, variants.ALL[kind]), f"{listening}:1")
                path = FOLDER / f"{name}{recording.SUFFIX}"
                recording.save(path, _entries(name, relay))
                sizes = f"{path.stat().st_size} bytes of {len(recording.load(path))}"
                sys.stdout.write(f"{name}: {sizes}, {time.monotonic() - began:.1f} s\n")


def _model(name: str, scratch: Path) -> tuple[Path, Kind]:
    if name == SMOLLM2:
        return catalog.pull("smollm2-135m-instruct", paths.default_cache(), lambda *_: None), "decoder"
    model = models.BY_NAME[name]
    return model.write(scratch), model.kind


def _entries(name: str, relay: Relay) -> list[Entry]:
    """Of all connections that the client made; those that say the same as an earlier one are left out."""
    kept: list[list[Entry]] = []
    for noted in relay.take():
        one = list(recording.distinct(noted))
        if one not in kept:
            kept.append(one)
    return [entry for number, one in enumerate(kept) for entry in (recording.session(f"{name}/{number}"), *one)]


if __name__ == "__main__":
    main(sys.argv[1:])
