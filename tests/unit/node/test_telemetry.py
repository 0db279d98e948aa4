"""What a worker printed becomes its devices; what the system says of a process and of the machine."""

from __future__ import annotations

import os
import subprocess
import sys

import psutil
import pytest

from rpcmesh.node import telemetry
from rpcmesh.node.status import Device

CUDA = """\
ggml_cuda_init: found 2 CUDA devices (Total VRAM: 162158 MiB):
  Device 0: NVIDIA H100 80GB HBM3, compute capability 9.0, VMM: yes, VRAM: 81079 MiB
  Device 1: NVIDIA H100 80GB HBM3, compute capability 9.0, VMM: yes, VRAM: 81079 MiB
Starting RPC server v4.0.0
  endpoint       : /run/rpcmesh/w0.sock:1
  local cache    : n/a
Devices:
  CUDA0: NVIDIA H100 80GB HBM3 (81079 MiB, 80523 MiB free)
  CUDA1: NVIDIA H100 80GB HBM3 (81079 MiB, 0 MiB free)
  transport      : TCP
Accepted client connection
"""


def test_the_devices_of_a_worker_in_its_order() -> None:
    name = "NVIDIA H100 80GB HBM3"
    assert telemetry.devices(CUDA.splitlines()) == (
        Device(name="CUDA0", description=name, total_mib=81079, free_mib=80523),
        Device(name="CUDA1", description=name, total_mib=81079, free_mib=0),
    )


@pytest.mark.parametrize(
    "device",
    [
        Device("CPU", "Intel(R) Xeon(R) CPU @ 2.20GHz", 7937, 7937),
        Device("MTL0", "Apple M3 Ultra", 475136, 475135),
        Device("Vulkan0", "AMD Radeon RX 7900 XTX (RADV NAVI31)", 24560, 24000),
        Device("X0", "odd: a colon (1 MiB, 1 MiB free)", 2, 1),
        Device("X0", "", 0, 0),
    ],
)
def test_a_device_line_is_read_whole(device: Device) -> None:
    line = f"  {device.name}: {device.description} ({device.total_mib} MiB, {device.free_mib} MiB free)"
    assert telemetry.devices([line]) == (device,)


@pytest.mark.parametrize(
    "line",
    [
        "",
        "Devices:",
        "  endpoint       : 127.0.0.1:50052",
        "CUDA0: NVIDIA H100 (81079 MiB, 80523 MiB free)",
        "  CUDA0: NVIDIA H100 (81079 MiB)",
        "  CUDA0: NVIDIA H100 (81079 MiB, -1 MiB free)",
        "  CUDA0: NVIDIA H100 (81079 MiB, 80523 MiB free) and more",
        "  two words: NVIDIA H100 (81079 MiB, 80523 MiB free)",
        "load_tensors:   CPU model buffer size = 1 MiB (2 MiB, 3 MiB free)",
    ],
)
def test_any_other_line_is_no_device(line: str) -> None:
    assert telemetry.devices([line]) == ()


def test_no_output_is_no_device() -> None:
    assert telemetry.devices([]) == ()


def test_the_resident_memory_of_a_process_is_what_it_holds() -> None:
    code = "held = b'x' * (64 << 20); print('up', flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        assert 64 << 20 < telemetry.rss_bytes(process.pid) < 256 << 20
        process.kill()


def test_a_process_that_is_gone_holds_nothing() -> None:
    with subprocess.Popen(["/bin/sh", "-c", "exit 0"]) as process:
        process.wait()
    assert telemetry.rss_bytes(process.pid) == 0


def test_a_service_that_is_not_running_holds_nothing() -> None:
    assert telemetry.rss_bytes(None) == 0


def test_the_machine_is_this_one() -> None:
    seen = telemetry.machine()
    assert seen.os.split()[0] in ("Linux", "macOS")
    assert len(seen.os.split()) >= 2
    assert seen.arch == os.uname().machine
    assert seen.memory_total_bytes == psutil.virtual_memory().total
    assert 0 < seen.memory_available_bytes <= seen.memory_total_bytes
    assert seen.load_1min >= 0
