"""What is said of a machine, Linux or macOS: facts in, level and fix out."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from doctor_facts import GIB, MIB, levels, said

from rpcmesh.doctor.facts import Bridge, Disk, Heat, MacSettings, Suspend, Zone


@pytest.mark.parametrize(
    ("free_bytes", "level"),
    [(5 * GIB, "ok"), (5 * GIB - 1, "warn"), (500 * MIB, "warn"), (500 * MIB - 1, "fail"), (0, "fail")],
)
def test_disk_room_has_two_bounds(free_bytes: int, level: str) -> None:
    assert levels("disk", disks=(Disk("cache", Path("/c"), free_bytes),)) == [level]


@pytest.mark.parametrize(("limit", "level"), [(1024, "ok"), (1023, "warn"), (256, "warn"), (255, "fail")])
def test_open_files_have_two_bounds(limit: int, level: str) -> None:
    assert levels("open files", open_files_limit=limit) == [level]


@pytest.mark.parametrize(
    ("governors", "expected"),
    [((), []), (("performance", "performance"), ["ok"]), (("performance", "powersave"), ["warn"])],
)
def test_a_governor_other_than_performance_warns(governors: tuple[str, ...], expected: list[str]) -> None:
    assert levels("cpu governor", governors=governors) == expected


@pytest.mark.parametrize(
    ("limit_bytes", "expected"), [(65536, ["ok"]), (64 * MIB - 1, ["ok"]), (64 * MIB, []), (sys.maxsize, [])]
)
def test_a_small_limit_of_locked_memory_is_a_note_and_no_fault(limit_bytes: int, expected: list[str]) -> None:
    assert levels("locked memory", memlock_bytes=limit_bytes) == expected


@pytest.mark.parametrize(("mode", "level"), [("always", "ok"), ("madvise", "ok"), ("never", "warn")])
def test_huge_pages_that_nobody_can_have_warn(mode: str, level: str) -> None:
    (finding,) = said("huge pages", huge_pages=mode)

    assert finding.level == level
    assert (finding.fix == "echo always | sudo tee /sys/kernel/mm/transparent_hugepage/enabled") == (level == "warn")


@pytest.mark.parametrize(
    ("modes", "expected", "words"),
    [
        ((), [], ""),
        (("[N/A]",), [], ""),
        (("Enabled", "Enabled"), ["ok"], "stays up"),
        (("Enabled", "Disabled", "Disabled"), ["warn"], "GPU 1, 2 goes down"),
    ],
)
def test_a_gpu_that_goes_down_while_unused_warns(modes: tuple[str, ...], expected: list[str], words: str) -> None:
    found = said("gpu", gpu_persistence=modes)

    assert [finding.level for finding in found] == expected
    assert all(words in finding.message for finding in found)


@pytest.mark.parametrize(
    ("heat", "expected"),
    [
        (Heat(), []),
        (Heat(zones=(Zone("cpu", 94.9, 100.0),)), [("ok", "no heat: 95 °C at most")]),
        (Heat(zones=(Zone("cpu", 95.0, 100.0),)), [("warn", "cpu is at 95 °C, its limit is 100 °C")]),
        (Heat(slowed_before=7, slowed=7), [("ok", "the CPU was slowed for it 7 times since this machine started")]),
        (Heat(slowed_before=7, slowed=8), [("warn", "being slowed down for heat, just now")]),
        (
            Heat(zones=(Zone("cpu", 99.0, 100.0), Zone("disk", 30.0, 80.0)), slowed_before=0, slowed=2),
            [("warn", "cpu is at 99 °C"), ("warn", "just now")],
        ),
    ],
)
def test_a_machine_that_is_hot_now_warns_and_one_that_was_is_told(heat: Heat, expected: list[tuple[str, str]]) -> None:
    found = said("heat", heat=heat)

    assert [finding.level for finding in found] == [level for level, _ in expected]
    assert all(words in finding.message for finding, (_, words) in zip(found, expected, strict=True))


@pytest.mark.parametrize(
    ("targets", "level", "fix"),
    [
        ({"sleep.target": "masked", "suspend.target": "masked"}, "ok", None),
        ({"sleep.target": "static", "suspend.target": "masked"}, "warn", "sudo systemctl mask sleep.target"),
    ],
)
def test_a_machine_with_a_lid_must_not_sleep(targets: dict[str, str], level: str, fix: str | None) -> None:
    (finding,) = said("sleep", suspend=Suspend(targets))

    assert (finding.level, finding.fix) == (level, fix)


def mac(**known: Any) -> MacSettings:
    return MacSettings(
        **{"wired_limit_mb": 0, "sleep_min": 0, "files_limit": 65536, "speed_limit_pct": 100, "bridge": None, **known}
    )


@pytest.mark.parametrize(
    ("settings", "wrong"),
    [
        (mac(), {}),
        (mac(wired_limit_mb=57344), {}),
        (mac(sleep_min=1), {"this machine sleeps after 1 min and leaves the mesh": "sudo pmset -a sleep 0"}),
        (mac(files_limit=1024), {}),
        (
            mac(files_limit=1023),
            {"launchd lets no program open more than 1023 files": "sudo launchctl limit maxfiles 65536 200000"},
        ),
        (
            mac(speed_limit_pct=62),
            {"the CPU is slowed to 62 % for heat": "let it breathe: dust, fans, room for air; or run less on it"},
        ),
        (mac(bridge=Bridge(active=False, mtu=1500)), {}),
        (mac(bridge=Bridge(active=True, mtu=9000, addresses=("10.10.0.1",))), {}),
        (
            mac(bridge=Bridge(active=True, mtu=9000)),
            {
                "the Thunderbolt bridge has no address that stays": (
                    "System Settings > Network > Thunderbolt Bridge > Details > TCP/IP: Manually, as 10.10.0.1"
                )
            },
        ),
    ],
)
def test_a_mac_is_told_what_takes_it_out_of_the_mesh_or_slows_it(settings: MacSettings, wrong: dict[str, str]) -> None:
    found = said("macos", mac=settings)

    assert {finding.message: finding.fix for finding in found if finding.level != "ok"} == wrong


def test_a_small_mtu_of_the_bridge_is_a_hint_and_no_fault() -> None:
    bridge = Bridge(active=True, mtu=1500, addresses=("10.10.0.1",))

    hint = said("macos", mac=mac(bridge=bridge))[-1]

    assert (hint.level, hint.fix) == ("ok", "sudo networksetup -setMTU bridge0 9000")


def test_what_a_mac_did_not_say_is_said_each_by_itself() -> None:
    silent = MacSettings(wired_limit_mb=None, sleep_min=None, files_limit=None, speed_limit_pct=None)

    found = said("macos", mac=silent)

    assert [finding.level for finding in found] == ["warn"] * 4
    assert all(finding.message.startswith("could not be looked at: ") for finding in found)
