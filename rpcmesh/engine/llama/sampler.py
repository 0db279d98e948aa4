"""How one sequence's next token is chosen: llama.cpp's own samplers, in a chain, and a grammar around them."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from llama_cpp import llama_cpp as llama

from rpcmesh.engine.gbnf import GrammarError
from rpcmesh.engine.grammar import Matcher
from rpcmesh.engine.llama.logprobs import token_logprobs
from rpcmesh.engine.llama.vocabulary import Vocabulary
from rpcmesh.engine.messages import Sampling, TokenLogprobs

# How far back penalties look: llama.cpp's own default.
PENALTY_LAST_N = 64
# Logits divided by less than this would overflow; it is also where vLLM begins to be greedy.
GREEDY_BELOW_TEMPERATURE = 1e-5
# Where a grammar refuses the chain's choice, the chain chooses among those of so many best tokens that it allows: the
# others together are next to nothing. Only where it allows none of them is the whole vocabulary gone through.
LOOKED_AT = 1024
FORBIDDEN = float("-inf")
# llama_token_data, as llama.h has it.
CANDIDATE = np.dtype([("id", np.int32), ("logit", np.float32), ("p", np.float32)])

Logits = npt.NDArray[np.float32]


class Sampler:
    """The chain of one sequence. Free it when the sequence ends.

    ``seen`` are the tokens before the first that it samples, and the last ``n_sampled`` of them were sampled by a chain
    like this one, which is gone. Penalties count them all, the prompt among them, as llama-server does, the dice were
    thrown once for each sampled one, and the grammar has taken in those: so a resumed completion goes on as it would
    have. ``matcher`` is fresh. Raises :class:`GrammarError` when it does not allow the sampled ones.

    ``fault`` says why no token could be chosen; the one that :meth:`sample` returns then means nothing.
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
        matcher: Matcher | None = None,
        top_logprobs: int | None = None,
    ) -> None:
        self._context = context
        self._vocabulary = vocabulary
        self._matcher = matcher
        self._top_logprobs = top_logprobs
        self._seed = seed
        self._n_sampled = n_sampled
        self._bias = _biases(vocabulary, sampling, ignore_eos)
        self._greedy = sampling.temperature < GREEDY_BELOW_TEMPERATURE
        # The chain would make a list of the whole vocabulary and choose its best, unless that is one with a bias.
        self._is_plain = (
            self._greedy
            and matcher is None
            and (sampling.repeat_penalty, sampling.frequency_penalty, sampling.presence_penalty) == (1, 0, 0)
            and all(bias <= 0 for bias in self._bias.values())
        )
        self.fault: str | None = None
        self.logprobs: tuple[TokenLogprobs, ...] = ()
        if matcher is not None:
            for token in seen[len(seen) - n_sampled :]:
                matcher.accept(vocabulary.piece(token))
        params = llama.llama_sampler_chain_default_params()
        params.no_perf = True
        self._chain = llama.llama_sampler_chain_init(params)
        for wanted, make in _steps(vocabulary, sampling, seed, self._bias):
            if wanted:
                llama.llama_sampler_chain_add(self._chain, make())
        for token in seen[-PENALTY_LAST_N:]:
            llama.llama_sampler_accept(self._chain, token)
        self._throw(n_sampled)

    def sample(self, index: int) -> int:
        """The next token, from the logits at this place of what llama.cpp decoded last."""
        token: int
        if self._is_plain and (best := int(self._logits(index).argmax())) not in self._bias:
            token = best
        elif self._matcher is None:
            token = llama.llama_sampler_sample(self._chain, self._context, index)
        else:
            try:
                token = self._constrained(self._matcher, self._logits(index))
            except GrammarError as error:
                self.fault = error.message
                return next(iter(self._vocabulary.eog), 0)
            llama.llama_sampler_accept(self._chain, token)
        self._n_sampled += 1
        if self._top_logprobs is not None:
            shown = token not in self._vocabulary.eog
            self.logprobs = (self._told(token, self._top_logprobs, index),) if shown else ()
        return token

    def _told(self, token: int, n_best: int, index: int) -> TokenLogprobs:
        return token_logprobs(self._logits(index), token, n_best, self._vocabulary.piece)

    def _logits(self, index: int) -> Logits:
        """A view of llama.cpp's own, which holds until the next decode."""
        pointer = llama.llama_get_logits_ith(self._context, index)
        return np.ctypeslib.as_array(pointer, shape=(self._vocabulary.n_tokens,))

    def _constrained(self, matcher: Matcher, logits: Logits) -> int:
        """The chain's free choice where the grammar allows it, which is mostly so and cheap to find out."""
        token = self._chosen(np.arange(len(logits)), logits, [self._chain])
        if not self._allowed(matcher, token):
            tokens = self._allowed_tokens(matcher, logits)
            # The dice of the chain have been thrown for this token. A throw of their own for this place keeps it at one
            # throw a token, which is what a resumed completion makes up for.
            dice = self._dice()
            try:
                token = self._chosen(tokens, logits, [*self._links()[:-1], dice])
            finally:
                llama.llama_sampler_free(dice)
        if token not in self._vocabulary.eog:
            matcher.accept(self._vocabulary.piece(token))
        return token

    def _allowed(self, matcher: Matcher, token: int) -> bool:
        if self._bias.get(token) == FORBIDDEN:
            return False
        if token in self._vocabulary.eog:
            return matcher.may_end
        return matcher.allows(self._vocabulary.piece(token))

    def _allowed_tokens(self, matcher: Matcher, logits: Logits) -> npt.NDArray[np.int64]:
        n_best = min(LOOKED_AT, len(logits))
        best = np.argpartition(logits, -n_best)[-n_best:]
        tokens = [token for token in best.tolist() if self._allowed(matcher, token)]
        if not tokens:
            ends = self._vocabulary.eog if matcher.may_end else ()
            every = (*matcher.allowed(self._vocabulary.words), *ends)
            tokens = [token for token in every if self._bias.get(token) != FORBIDDEN]
        if not tokens:
            raise GrammarError("the grammar allows no token here that the request does not forbid")
        return np.array(sorted(tokens))

    def _chosen(self, tokens: npt.NDArray[Any], logits: Logits, steps: Sequence[Any]) -> int:
        candidates = np.zeros(len(tokens), dtype=CANDIDATE)
        candidates["id"] = tokens
        candidates["logit"] = logits[tokens]
        pointer = ctypes.cast(candidates.ctypes.data, ctypes.POINTER(llama.llama_token_data))
        array = llama.llama_token_data_array(pointer, len(tokens), -1, False)
        for step in steps:
            llama.llama_sampler_apply(step, ctypes.byref(array))
        return int(array.data[array.selected].id)

    def _dice(self) -> Any:
        if self._greedy:
            return llama.llama_sampler_init_greedy()
        # Weyl's sequence: seeds of neighbouring places have nothing in common.
        return llama.llama_sampler_init_dist((self._seed + 0x9E3779B9 * (self._n_sampled + 1)) % 0xFFFFFFFF)

    def _links(self) -> list[Any]:
        n_links = llama.llama_sampler_chain_n(self._chain)
        return [llama.llama_sampler_chain_get(self._chain, place) for place in range(n_links)]

    def _throw(self, times: int) -> None:
        """Bring the last step's dice to where they stood: also one candidate, which leaves no choice, is thrown for."""
        last = self._links()[-1]
        only = llama.llama_token_data(0, 0.0, 0.0)
        for _ in range(times):
            candidates = llama.llama_token_data_array(ctypes.pointer(only), 1, -1, True)
            llama.llama_sampler_apply(last, ctypes.byref(candidates))

    def free(self) -> None:
        llama.llama_sampler_free(self._chain)


def _steps(
    vocabulary: Vocabulary, sampling: Sampling, seed: int, biases: Mapping[int, float]
) -> tuple[tuple[bool, Callable[[], Any]], ...]:
    """The chain's rows, wanted or not. The order matters: each step sees what the one before it left."""
    greedy = sampling.temperature < GREEDY_BELOW_TEMPERATURE
    return (
        (bool(biases), lambda: _bias(vocabulary, biases)),
        (True, lambda: _penalties(vocabulary, sampling)),
        (sampling.top_k > 0 and not greedy, lambda: llama.llama_sampler_init_top_k(sampling.top_k)),
        (sampling.top_p < 1 and not greedy, lambda: llama.llama_sampler_init_top_p(sampling.top_p, 1)),
        (sampling.min_p > 0 and not greedy, lambda: llama.llama_sampler_init_min_p(sampling.min_p, 1)),
        (not greedy, lambda: llama.llama_sampler_init_temp(sampling.temperature)),
        # llama.cpp takes the largest u32 for "any seed"; every other one, negative or long, is cut to 32 bits.
        (not greedy, lambda: llama.llama_sampler_init_dist(seed & 0xFFFFFFFF)),
        (greedy, llama.llama_sampler_init_greedy),
    )


def _biases(vocabulary: Vocabulary, sampling: Sampling, ignore_eos: bool) -> dict[int, float]:
    forbidden = dict.fromkeys(vocabulary.eog, FORBIDDEN) if ignore_eos else {}
    return dict(sampling.logit_bias) | forbidden


def _bias(vocabulary: Vocabulary, biases: Mapping[int, float]) -> Any:
    rows = (llama.llama_logit_bias * len(biases))(*sorted(biases.items()))
    return llama.llama_sampler_init_logit_bias(vocabulary.n_tokens, len(biases), rows)


def _penalties(vocabulary: Vocabulary, sampling: Sampling) -> Any:
    return llama.llama_sampler_init_penalties(
        vocabulary.n_tokens,
        PENALTY_LAST_N,
        sampling.repeat_penalty,
        sampling.frequency_penalty,
        sampling.presence_penalty,
    )
