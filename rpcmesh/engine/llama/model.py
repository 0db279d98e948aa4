"""Weights: from a GGUF file onto the devices we chose. No context and no token is known here."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from llama_cpp import llama_cpp as llama

from rpcmesh.engine.ggml_log import Log
from rpcmesh.engine.llama import devices
from rpcmesh.engine.llama.devices import BackendDevice
from rpcmesh.engine.llama.faults import LoadError, NoMemoryError

GGUF_MAGIC = b"GGUF"
# enum llama_pooling_type, as the GGUF has it: mean, first token and last token make a vector, rank makes a number.
VECTORS = {b"1", b"2", b"3"}
RANK = b"4"


class _Override(ctypes.Structure):
    """``llama_model_tensor_buft_override``, which the bindings leave out."""

    _fields_ = (("pattern", ctypes.c_char_p), ("buffer_type", ctypes.c_void_p))


# An override that no tensor's name matches. With one, llama.cpp leaves out its pipeline for cards of one machine, which
# waits for all workers before each graph that it sends again. A worker's commands are in order without it, and so one
# piece of a batch goes through the first worker while the piece before it is in the second.
NO_OVERRIDES = (_Override * 2)(_Override(b"^$", None))

# How ggml, or llama.cpp where ggml is silent, says that a buffer for weights was refused.
NO_BUFFER = ("failed to allocate", "unable to allocate")


def load_model(
    path: Path,
    placed_on: Sequence[BackendDevice],
    planned: Sequence[int],
    log: Log,
    on_progress: Callable[[float], bool],
) -> Any:
    """llama.cpp's handle of the loaded model, whole layers on each device.

    How many, the output head counted as one, says ``planned`` for each device, if it does for all of them. Else they
    are in proportion to free memory. Without devices the model is on the local CPU. ``on_progress`` returns False to
    give up. Raises :class:`LoadError`.
    """
    _check_file(path)
    n_devices_max = llama.llama_max_devices()
    if len(placed_on) > n_devices_max:
        raise LoadError(f"{len(placed_on)} devices are more than the {n_devices_max} that llama.cpp can use")
    # The list ends with NULL; an empty one, unlike no list at all, means the CPU alone.
    handles = (ctypes.c_void_p * (len(placed_on) + 1))(*(device.handle for device in placed_on), None)
    split = (ctypes.c_float * n_devices_max)(*_shares(placed_on, planned))
    progress = llama.llama_progress_callback(lambda fraction, _: on_progress(fraction))
    params = llama.llama_model_default_params()
    params.devices = ctypes.cast(handles, ctypes.c_void_p)
    params.tensor_split = split
    params.split_mode = llama.LLAMA_SPLIT_MODE_LAYER
    params.n_gpu_layers = -1
    params.progress_callback = progress
    params.tensor_buft_overrides = ctypes.cast(NO_OVERRIDES, ctypes.c_void_p)
    log.start_load()
    model = llama.llama_model_load_from_file(str(path).encode(), params)
    if not model:
        error = log.first_error()
        fault = NoMemoryError if error.startswith(NO_BUFFER) else LoadError
        raise fault(f"model {str(path)!r} cannot be loaded: {error}")
    if llama.llama_model_has_encoder(model):
        llama.llama_model_free(model)
        raise LoadError(f"model {str(path)!r} has an encoder: only decoder models generate text here")
    if _pooling(model) == RANK:
        llama.llama_model_free(model)
        raise LoadError(f"model {str(path)!r} ranks texts: only models that generate or embed them are served here")
    return model


def _shares(placed_on: Sequence[BackendDevice], planned: Sequence[int]) -> list[float]:
    # llama.cpp puts layer i of n on the first device whose cumulative share is above i / n: counts are met exactly.
    if len(planned) == len(placed_on) and any(planned):
        return [float(n_layers) for n_layers in planned]
    # A device that reports nothing still gets a share: a split of zeros means "choose for me".
    return [float(devices.free_bytes(device) or 1) for device in placed_on]


def pools(model: Any) -> bool:
    """Whether the model makes a vector of a text: its GGUF then names a way to pool the tokens' own."""
    return _pooling(model) in VECTORS


def _pooling(model: Any) -> bytes:
    return _metadata(model, _metadata(model, b"general.architecture") + b".pooling_type")


def _metadata(model: Any, key: bytes) -> bytes:
    value = ctypes.create_string_buffer(256)
    return value.value if llama.llama_model_meta_val_str(model, key, value, len(value)) >= 0 else b""


def _check_file(path: Path) -> None:
    try:
        with path.open("rb") as file:
            magic = file.read(len(GGUF_MAGIC))
    except OSError as error:
        raise LoadError(f"model {str(path)!r} cannot be read: {error.strerror}") from error
    if magic != GGUF_MAGIC:
        raise LoadError(f"model {str(path)!r} is not a GGUF file: it begins with {magic!r}")
