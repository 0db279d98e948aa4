"""ggml's devices: one for each device of each RPC worker. No model is known here."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llama_cpp import llama_cpp as llama

from rpcmesh.engine.llama.faults import LoadError
from rpcmesh.engine.messages import DeviceSpec
from rpcmesh.engine.placement import Device

_SIZE_P = ctypes.POINTER(ctypes.c_size_t)
# ggml-backend.h, which llama_cpp has no bindings for: name, result, arguments.
_BINDINGS: tuple[tuple[str, Any, tuple[Any, ...]], ...] = (
    ("ggml_backend_load_all_from_path", None, (ctypes.c_char_p,)),
    ("ggml_backend_reg_count", ctypes.c_size_t, ()),
    ("ggml_backend_reg_by_name", ctypes.c_void_p, (ctypes.c_char_p,)),
    ("ggml_backend_reg_get_proc_address", ctypes.c_void_p, (ctypes.c_void_p, ctypes.c_char_p)),
    ("ggml_backend_register", None, (ctypes.c_void_p,)),
    ("ggml_backend_reg_dev_count", ctypes.c_size_t, (ctypes.c_void_p,)),
    ("ggml_backend_reg_dev_get", ctypes.c_void_p, (ctypes.c_void_p, ctypes.c_size_t)),
    ("ggml_backend_dev_name", ctypes.c_char_p, (ctypes.c_void_p,)),
    ("ggml_backend_dev_memory", None, (ctypes.c_void_p, _SIZE_P, _SIZE_P)),
    ("ggml_backend_dev_buffer_type", ctypes.c_void_p, (ctypes.c_void_p,)),
    ("ggml_backend_buft_name", ctypes.c_char_p, (ctypes.c_void_p,)),
)
_ADD_SERVER = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_char_p)


@dataclass(frozen=True, slots=True)
class BackendDevice:
    """A device, and ggml's handle of it."""

    device: Device
    handle: int


def _bind() -> Any:
    # libllama depends on ggml's libraries, so its handle finds their symbols too.
    library = llama._lib
    for name, result, arguments in _BINDINGS:
        function = getattr(library, name)
        function.restype, function.argtypes = result, list(arguments)
    return library


_ggml = _bind()


def load_backends() -> None:
    """Make the CPU and RPC backends known: a build with dynamic backends has to be told, a static one has them."""
    if not _ggml.ggml_backend_reg_count():
        _ggml.ggml_backend_load_all_from_path(str(Path(llama._lib._name).parent).encode())


def add_worker(spec: DeviceSpec) -> list[BackendDevice]:
    """Connect to a worker and take all its devices. Raises :class:`LoadError`; ggml aborts if it cannot connect."""
    registry = _ggml.ggml_backend_reg_by_name(b"RPC")
    if not registry:
        raise LoadError("this build of llama.cpp has no RPC backend", hint="rpcmesh build")
    add_server = _ADD_SERVER(_ggml.ggml_backend_reg_get_proc_address(registry, b"ggml_backend_rpc_add_server"))
    server = add_server(spec.endpoint.encode())
    n_devices = _ggml.ggml_backend_reg_dev_count(server) if server else 0
    if not n_devices:
        raise LoadError(f"worker {spec.node}/{spec.worker} at {spec.endpoint!r} offers no device")
    _ggml.ggml_backend_register(server)
    return [_describe(spec, _ggml.ggml_backend_reg_dev_get(server, index)) for index in range(n_devices)]


def _describe(spec: DeviceSpec, handle: int) -> BackendDevice:
    name = _ggml.ggml_backend_dev_name(handle).decode()
    buffer = _ggml.ggml_backend_buft_name(_ggml.ggml_backend_dev_buffer_type(handle)).decode()
    return BackendDevice(Device(spec.node, spec.worker, name, buffer), handle)


def free_bytes(device: BackendDevice) -> int:
    """The memory that the device says is free."""
    free, total = ctypes.c_size_t(), ctypes.c_size_t()
    _ggml.ggml_backend_dev_memory(device.handle, ctypes.byref(free), ctypes.byref(total))
    return free.value
