"""A stop-watch around the two calls in which llama.cpp computes, for a benchmark."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llama_cpp import llama_cpp as llama


def timed(around: Callable[[Callable[..., Any]], Callable[..., Any]]) -> None:
    """From now on every decode and every sampling of this process runs inside what ``around`` makes of it."""
    llama.llama_decode = around(llama.llama_decode)
    llama.llama_sampler_sample = around(llama.llama_sampler_sample)
