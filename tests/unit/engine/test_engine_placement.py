"""Where layers lie is read from llama.cpp's own lines."""

from __future__ import annotations

from rpcmesh.engine.ggml_log import CONT, DEBUG, ERROR, INFO, Log
from rpcmesh.engine.messages import DeviceLayers
from rpcmesh.engine.placement import Device, read_placement

# A three-layer model over two workers, as llama.cpp prints it.
LINES = (
    "load_tensors: loading model tensors, this can take a while... (load_mode = mmap)",
    "load_tensors: layer   0 assigned to device RPC0, is_swa = 0",
    "load_tensors: layer   1 assigned to device RPC0, is_swa = 0",
    "load_tensors: layer   2 assigned to device RPC1, is_swa = 0",
    "load_tensors: layer   3 assigned to device RPC1, is_swa = 0",
    "load_tensors: offloaded 4/4 layers to GPU",
    "load_tensors:   CPU_Mapped model buffer size =    28.50 MiB",
    "load_tensors:   CPU_REPACK model buffer size =     0.50 MiB",
    "load_tensors: RPC0[/run/node-1.w0.sock:1] model buffer size =    33.82 MiB",
    "load_tensors: RPC0[/run/node-2.w0.sock:1] model buffer size =    58.00 MiB",
)
# Both are device 0 of their endpoint, which is what the buffer is named after; the device's name counts on.
DEVICES = (
    Device("node-1", "w0", "RPC0", "RPC0[/run/node-1.w0.sock:1]"),
    Device("node-2", "w0", "RPC1", "RPC0[/run/node-2.w0.sock:1]"),
)


def test_layers_output_and_bytes_go_to_their_device() -> None:
    assert read_placement(LINES, DEVICES, n_layer=3) == (
        DeviceLayers("node-1", "w0", "RPC0", (0, 1), False, round(33.82 * 2**20)),
        DeviceLayers("node-2", "w0", "RPC1", (2,), True, 58 * 2**20),
        DeviceLayers(None, None, "CPU", (), False, 29 * 2**20),
    )


def test_a_local_model_is_all_on_the_cpu() -> None:
    lines = [line.replace("RPC0,", "CPU,").replace("RPC1,", "CPU,") for line in LINES[:7]]
    assert read_placement(lines, (), n_layer=3) == (
        DeviceLayers(None, None, "CPU", (0, 1, 2), True, round(28.5 * 2**20)),
    )


def test_the_log_joins_fragments_and_hides_debug_lines() -> None:
    printed: list[str] = []
    log = Log(printed.append)
    log.receive(INFO, "loading ")
    log.receive(CONT, "weights")
    log.receive(CONT, "\nload_tensors: CPU model")
    log.receive(CONT, " buffer\n")
    log.receive(DEBUG, "load_tensors: layer   0 assigned to device CPU, is_swa = 0\n")
    assert printed == ["loading weights", "load_tensors: CPU model buffer"]
    assert log.load_lines == [
        "load_tensors: CPU model buffer",
        "load_tensors: layer   0 assigned to device CPU, is_swa = 0",
    ]


def test_the_first_error_is_the_reason() -> None:
    log = Log(lambda _line: None)
    assert log.first_error() == "llama.cpp gave no reason"
    log.receive(ERROR, "llama_model_load: error loading model: tensor 'x' is not within the file bounds\n")
    log.receive(ERROR, "llama_model_load_from_file_impl: failed to load model\n")
    assert log.first_error() == "tensor 'x' is not within the file bounds"
    log.start_load()
    assert log.first_error() == "llama.cpp gave no reason"
