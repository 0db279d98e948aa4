"""How one sequence's next token is chosen: llama.cpp's own samplers, in a chain."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from typing import Any

from llama_cpp import llama_cpp as llama

from rpcmesh.engine.llama.vocabulary import Vocabulary
from rpcmesh.engine.messages import Sampling

# How far back penalties look: llama.cpp's own default.
PENALTY_LAST_N = 64
# Logits divided by less than this would overflow; it is also where vLLM begins to be greedy.
GREEDY_BELOW_TEMPERATURE = 1e-5


class Sampler:
    """The chain of one sequence. Free it when the sequence ends.

    ``seen`` are the tokens before the first that it samples, and the last ``n_sampled`` of them were sampled by a chain
    like this one, which is gone. Penalties count them all, the prompt among them, as llama-server does, and the dice
    were thrown once for each sampled one: so a resumed completion goes on as it would have.
    """

    def __init__(
        self,
        context: Any,
        vocabulary: Vocabulary,
        sampling: Sampling,
        *,
        seed: int,
        ignore_eos: bool,
        seen: Sequence[int],
        n_sampled: int = 0,
    ) -> None:
        self._context = context
        params = llama.llama_sampler_chain_default_params()
        params.no_perf = True
        self._chain = llama.llama_sampler_chain_init(params)
        for wanted, make in _steps(vocabulary, sampling, seed, ignore_eos):
            if wanted:
                llama.llama_sampler_chain_add(self._chain, make())
        for token in seen[-PENALTY_LAST_N:]:
            llama.llama_sampler_accept(self._chain, token)
        self._throw(n_sampled)

    def sample(self, index: int) -> int:
        """The next token, from the logits at this place of the batch decoded last."""
        token: int = llama.llama_sampler_sample(self._chain, self._context, index)
        return token

    def _throw(self, times: int) -> None:
        """Bring the last step's dice to where they stood: also one candidate, which leaves no choice, is thrown for."""
        last = llama.llama_sampler_chain_get(self._chain, llama.llama_sampler_chain_n(self._chain) - 1)
        only = llama.llama_token_data(0, 0.0, 0.0)
        for _ in range(times):
            candidates = llama.llama_token_data_array(ctypes.pointer(only), 1, -1, True)
            llama.llama_sampler_apply(last, ctypes.byref(candidates))

    def free(self) -> None:
        llama.llama_sampler_free(self._chain)


def _steps(
    vocabulary: Vocabulary, sampling: Sampling, seed: int, ignore_eos: bool
) -> tuple[tuple[bool, Callable[[], Any]], ...]:
    """The chain's rows, wanted or not. The order matters: each step sees what the one before it left."""
    greedy = sampling.temperature < GREEDY_BELOW_TEMPERATURE
    return (
        (ignore_eos, lambda: _forbid(vocabulary)),
        (True, lambda: _penalties(vocabulary, sampling)),
        (sampling.top_k > 0 and not greedy, lambda: llama.llama_sampler_init_top_k(sampling.top_k)),
        (sampling.top_p < 1 and not greedy, lambda: llama.llama_sampler_init_top_p(sampling.top_p, 1)),
        (sampling.min_p > 0 and not greedy, lambda: llama.llama_sampler_init_min_p(sampling.min_p, 1)),
        (not greedy, lambda: llama.llama_sampler_init_temp(sampling.temperature)),
        # llama.cpp takes the largest u32 for "any seed"; every other one, negative or long, is cut to 32 bits.
        (not greedy, lambda: llama.llama_sampler_init_dist(seed & 0xFFFFFFFF)),
        (greedy, llama.llama_sampler_init_greedy),
    )


def _forbid(vocabulary: Vocabulary) -> Any:
    tokens = sorted(vocabulary.eog)
    biases = (llama.llama_logit_bias * len(tokens))(*((token, float("-inf")) for token in tokens))
    return llama.llama_sampler_init_logit_bias(vocabulary.n_tokens, len(tokens), biases)


def _penalties(vocabulary: Vocabulary, sampling: Sampling) -> Any:
    return llama.llama_sampler_init_penalties(
        vocabulary.n_tokens,
        PENALTY_LAST_N,
        sampling.repeat_penalty,
        sampling.frequency_penalty,
        sampling.presence_penalty,
    )
