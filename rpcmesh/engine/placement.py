"""Which layer really lies on which device, read from what llama.cpp logs while loading. No llama.cpp, no I/O."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from rpcmesh.engine.messages import DeviceLayers

# llama.cpp has no call that tells a layer's device; these two lines of load_tensors() are its only account of it.
_LAYER = re.compile(r"load_tensors: layer +(?P<layer>\d+) assigned to device (?P<device>[^,]+),")
_BUFFER = re.compile(r"load_tensors: +(?P<buffer>.+?) model buffer size = +(?P<mib>[\d.]+) MiB")

LOCAL = "CPU"


@dataclass(frozen=True, slots=True)
class Device:
    """A device that holds layers. ``name`` and ``buffer`` are the names it goes by in the two kinds of log line."""

    node: str | None
    worker: str | None
    name: str
    buffer: str


def read_placement(lines: Iterable[str], devices: Iterable[Device], n_layer: int) -> tuple[DeviceLayers, ...]:
    """One entry per device, the local CPU last: it always holds the token embedding.

    Layer ``n_layer`` in the log is the output head. ``weight_bytes`` is exact to 0.01 MiB, as logged.
    """
    layers: dict[str, list[int]] = defaultdict(list)
    sizes: dict[str, float] = defaultdict(float)
    by_buffer = {device.buffer: device.name for device in devices}
    for line in lines:
        if found := _LAYER.match(line):
            layers[found["device"]].append(int(found["layer"]))
        elif found := _BUFFER.match(line):
            # The CPU has several buffer types (CPU_Mapped, CPU_REPACK, …); every device has the one it was asked for.
            sizes[by_buffer.get(found["buffer"], LOCAL)] += float(found["mib"])
    return tuple(
        DeviceLayers(
            node=device.node,
            worker=device.worker,
            device=device.name,
            layers=tuple(sorted(layer for layer in layers[device.name] if layer < n_layer)),
            output=n_layer in layers[device.name],
            weight_bytes=round(sizes[device.name] * (1 << 20)),
        )
        for device in (*devices, Device(None, None, LOCAL, LOCAL))
    )
