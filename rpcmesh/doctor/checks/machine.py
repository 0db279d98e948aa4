"""This machine: what it has room for, and what would slow it down or take it out of the mesh."""

from __future__ import annotations

from collections.abc import Iterable

from rpcmesh.doctor.facts import Disk, Facts, Heat, Suspend, Unknown
from rpcmesh.doctor.findings import Level, Said, each
from rpcmesh.words import size

DISK_LOW_BYTES, DISK_FULL_BYTES = 5 * 2**30, 500 * 2**20
FILES_LOW, FILES_TOO_FEW = 1024, 256
MEMLOCK_SMALL_BYTES = 64 * 2**20
# So close to a trip point a machine is about to slow down, or to switch itself off.
HOT_MARGIN_C = 5.0


def disk_room(disks: tuple[Disk | Unknown, ...], _: Facts) -> Iterable[Said]:
    return each(disks, _disk)


def _disk(disk: Disk) -> Iterable[Said]:
    free = f"{size(disk.free_bytes)} free for the {disk.what} {str(disk.path)!r}"
    if disk.free_bytes >= DISK_LOW_BYTES:
        yield Said("ok", free)
    else:
        level: Level = "fail" if disk.free_bytes < DISK_FULL_BYTES else "warn"
        yield Said(level, free, f"free some room, or set RPCMESH_{disk.what.upper()} to a larger disk")


def open_files(limit: int, _: Facts) -> Iterable[Said]:
    if limit >= FILES_LOW:
        yield Said("ok", "enough files may be open")
    else:
        level: Level = "fail" if limit < FILES_TOO_FEW else "warn"
        yield Said(level, f"only {limit} files may be open at once", "ulimit -n 4096")


def locked_memory(limit_bytes: int, _: Facts) -> Iterable[Said]:
    """Never more than a note. llama.cpp locks memory in its load modes MLOCK and MMAP_MLOCK only, and pins it for RDMA;
    the engine asks for neither mode, the worker takes no such option, and native/CMakeLists.txt leaves RDMA out. What
    CUDA pins goes through its driver, which this limit does not count."""
    if limit_bytes < MEMLOCK_SMALL_BYTES:
        yield Said("ok", f"only {size(limit_bytes)} may be locked, which is enough: rpcmesh locks none")


def huge_pages(mode: str, _: Facts) -> Iterable[Said]:
    """llama.cpp takes its CPU buffers from posix_memalign and never asks for huge pages (ggml_aligned_malloc), nor does
    glibc by itself: it gets them in the mode "always" alone."""
    match mode:
        case "always":
            yield Said("ok", "large buffers get huge pages")
        case "madvise":
            yield Said("ok", "huge pages are for programs that ask, which llama.cpp does not: 'always' may be faster")
        case _:
            enabled = "/sys/kernel/mm/transparent_hugepage/enabled"
            fix = f"echo always | sudo tee {enabled}"
            yield Said("warn", f"huge pages are {mode!r}: models on CPUs may run slower than they can", fix)


def cpu_governor(governors: tuple[str, ...], _: Facts) -> Iterable[Said]:
    slow = sorted(set(governors) - {"performance"})
    if slow:
        fix = "sudo cpupower frequency-set -g performance"
        yield Said("warn", f"the CPU governor is {', '.join(map(repr, slow))}: cores may run slower than they can", fix)
    elif governors:
        yield Said("ok", "the CPU governor is 'performance'")


def heat(seen: Heat, _: Facts) -> Iterable[Said]:
    hot = [zone for zone in seen.zones if zone.now_c >= zone.limit_c - HOT_MARGIN_C]
    cool = "let it breathe: dust, fans, room for air; or run less on it"
    for zone in hot:
        yield Said("warn", f"{zone.name} is at {zone.now_c:.0f} °C, its limit is {zone.limit_c:.0f} °C", cool)
    if seen.slowed > seen.slowed_before:
        yield Said("warn", "the CPU is being slowed down for heat, just now", cool)
    elif not hot and seen.slowed:
        yield Said("ok", f"no heat now; the CPU was slowed for it {seen.slowed} times since this machine started")
    elif not hot and seen.zones:
        yield Said("ok", f"no heat: {max(zone.now_c for zone in seen.zones):.0f} °C at most")


def suspend(seen: Suspend, _: Facts) -> Iterable[Said]:
    free = sorted(target for target, state in seen.targets.items() if state != "masked")
    if free:
        asleep = "this machine has a lid and may go to sleep: a node that sleeps leaves the mesh"
        yield Said("warn", asleep, f"sudo systemctl mask {' '.join(free)}")
    else:
        yield Said("ok", "this machine cannot go to sleep")


def gpu_persistence(modes: tuple[str, ...], _: Facts) -> Iterable[Said]:
    off = [str(number) for number, mode in enumerate(modes) if mode == "Disabled"]
    if off:
        which = f"GPU {', '.join(off)}"
        # "a short (order of 1-3 second) startup cost per GPU": docs.nvidia.com/deploy/driver-persistence
        yield Said("warn", f"{which} goes down while unused: each start takes 1 to 3 s longer", "sudo nvidia-smi -pm 1")
    elif "Enabled" in modes:
        yield Said("ok", "NVIDIA's driver stays up while a GPU is unused")
