"""A sequence's KV cells as bytes, and back. Where the bytes go, and when, is decided elsewhere."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
import numpy.typing as npt
from llama_cpp import llama_cpp as llama

from rpcmesh.engine.llama.faults import StateError

Bytes = npt.NDArray[np.uint8]


class Cells:
    """The cells of one context. ``spare`` is a sequence that nothing else uses.

    llama.cpp gives and takes the state of whole sequences. To get a part of one, its cells are lent to the spare
    sequence for a moment, which costs no copy: a cell knows all sequences that it belongs to. The state is per layer,
    so it fits any split over devices, and any context in which it finds room.
    """

    def __init__(self, context: Any, model: Any, spare: int) -> None:
        self._context = context
        self._memory = llama.llama_get_memory(context)
        self._spare = spare
        # The state of a recurrent layer is that of all tokens so far: there are no parts of it.
        self.whole: bool = llama.llama_model_is_recurrent(model) or llama.llama_model_is_hybrid(model)

    def save(self, slot: int, start: int, stop: int) -> Bytes:
        """The state of tokens ``start`` to ``stop``. Raises :class:`StateError`."""
        if self.whole:
            return self._state(slot)
        llama.llama_memory_seq_cp(self._memory, slot, self._spare, start, stop)
        try:
            return self._state(self._spare)
        finally:
            self._clear(self._spare)

    def restore(self, slot: int, start: int, stop: int, state: Bytes) -> None:
        """Put tokens ``start`` to ``stop`` back; with the first of all the slot is cleared.

        Raises :class:`StateError`; then the slot has to be cleared.
        """
        if start == 0:
            self._clear(slot)
        target = slot if self.whole else self._spare
        read = llama.llama_state_seq_set_data_ext(
            self._context, _pointer(state), len(state), target, llama.LLAMA_STATE_SEQ_FLAGS_NONE
        )
        if not self.whole:
            llama.llama_memory_seq_cp(self._memory, self._spare, slot, -1, -1)
            self._clear(self._spare)
        last = llama.llama_memory_seq_pos_max(self._memory, slot)
        if read != len(state) or last != stop - 1:
            raise StateError(f"{read} of {len(state)} bytes were read, and the last cell is {last} of {stop - 1}")

    def _state(self, sequence: int) -> Bytes:
        flags = llama.LLAMA_STATE_SEQ_FLAGS_NONE
        n_bytes = llama.llama_state_seq_get_size_ext(self._context, sequence, flags)
        state: Bytes = np.empty(n_bytes, np.uint8)
        written = llama.llama_state_seq_get_data_ext(self._context, _pointer(state), n_bytes, sequence, flags)
        if not written or written != n_bytes:
            raise StateError(f"{written} of {n_bytes} bytes were written")
        return state

    def _clear(self, sequence: int) -> None:
        llama.llama_memory_seq_rm(self._memory, sequence, -1, -1)


def _pointer(state: Bytes) -> Any:
    return state.ctypes.data_as(ctypes.POINTER(ctypes.c_uint8))
