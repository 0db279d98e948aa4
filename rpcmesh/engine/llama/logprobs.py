"""Log probabilities from the model's raw logits. Nothing is sampled here."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from rpcmesh.engine.messages import Candidate, TokenLogprobs


def token_logprobs(
    logits: npt.NDArray[np.float32], token: int, n_best: int, piece: Callable[[int], bytes]
) -> TokenLogprobs:
    """The sampled token's log-softmax, and the ``n_best`` best in falling order. ``logits`` has one a token."""
    highest = logits.max()
    log_sum = highest + np.log(np.exp(logits - highest).sum())

    def candidate(each: int) -> Candidate:
        return Candidate(piece(each), float(logits[each] - log_sum))

    return TokenLogprobs(candidate(token), tuple(candidate(each) for each in _best(logits, n_best)))


def _best(logits: npt.NDArray[np.float32], n_best: int) -> list[int]:
    n_best = min(n_best, len(logits))
    if n_best == 0:
        return []
    best = np.argpartition(logits, -n_best)[-n_best:]
    ordered: list[int] = best[np.argsort(-logits[best], kind="stable")].tolist()
    return ordered
