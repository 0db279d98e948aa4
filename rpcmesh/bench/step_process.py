"""``python -m rpcmesh.bench.step_process``: an engine's steps, timed inside the process that has llama.cpp in it.

A step is what the engine's process does for one token of each sequence: schedule, fill the batch, decode, sample, turn
tokens into text, pack one frame and write it. Decoding and sampling are llama.cpp's; what is left is ours.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from rpcmesh.bench.step import StepCost
from rpcmesh.engine.ggml_log import Log
from rpcmesh.engine.llama import attach_log
from rpcmesh.engine.llama.timed import timed
from rpcmesh.engine.messages import GenerateRequest, LoadSpec, Sampling, Step, TextPrompt, encode
from rpcmesh.engine.serving import Serving

WARM_STEPS = 20


class _Clock:
    """Adds up the time spent in the functions it is put around."""

    def __init__(self) -> None:
        self.spent_s = 0.0

    def around(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*arguments: Any) -> Any:
            began = time.perf_counter()
            try:
                return function(*arguments)
            finally:
                self.spent_s += time.perf_counter() - began

        return counted


def _run(model_file: Path, sequences: int, steps: int) -> StepCost:
    log = Log(lambda _line: None)
    attach_log(log)
    clock = _Clock()
    spec = LoadSpec("bench", str(model_file), n_ctx=WARM_STEPS + steps + 64, n_seq_max=sequences)
    serving = Serving(spec, log, lambda _fraction: True, lambda _id, _file: None, lambda _line: None)
    timed(clock.around)
    for number in range(sequences):
        # As an API's client asks by default; begun apart, so that none waits for another's prefill.
        request = GenerateRequest(f"r{number}", TextPrompt(f"{number} ships"), None, Sampling(), ignore_eos=True)
        serving.submit(request)
    measured: list[tuple[float, float]] = []
    with Path(os.devnull).open("wb", buffering=0) as owner:
        while len(measured) < WARM_STEPS + steps:
            began, before_s = time.perf_counter(), clock.spent_s
            for event in serving.step():
                owner.write(encode(event))
                if isinstance(event, Step) and len(event.deltas) == sequences:
                    measured.append((time.perf_counter() - began, clock.spent_s - before_s))
    counted = measured[WARM_STEPS:]
    return StepCost(
        sequences=sequences,
        steps=len(counted),
        step_ms=1000 * statistics.median(step_s for step_s, _ in counted),
        llama_ms=1000 * statistics.median(llama_s for _, llama_s in counted),
        python_share=statistics.median(1 - llama_s / step_s for step_s, llama_s in counted),
    )


def main() -> None:
    parser = argparse.ArgumentParser(prog="rpcmesh.bench.step_process")
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--sequences", type=int, required=True)
    parser.add_argument("--steps", type=int, required=True)
    asked = parser.parse_args()
    cost = _run(asked.model, asked.sequences, asked.steps)
    sys.stdout.write(msgspec.json.encode(cost).decode())
    sys.stdout.flush()
    # As the engine's process ends.
    os._exit(0)


if __name__ == "__main__":
    main()
