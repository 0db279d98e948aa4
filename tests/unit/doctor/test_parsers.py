"""What macOS prints about its settings, read without a Mac."""

from __future__ import annotations

import pytest

from rpcmesh.doctor import parsers

PMSET = """System-wide power settings:
Currently in use:
 standby              0
 Sleep On Power Button 1
 autorestart          0
 powernap             1
 networkoversleep     0
 disksleep            10
 sleep                {sleep}
 ttyskeepawake        1
 displaysleep         10
"""


@pytest.mark.parametrize(
    ("text", "limit_mb"),
    [
        ("0\n", 0),
        ("57344\n", 57344),
        ("iogpu.wired_limit_mb: 57344\n", 57344),
        ("", None),
        ("sysctl: unknown oid 'iogpu.wired_limit_mb'\n", None),
        ("-1\n", None),
    ],
)
def test_the_wired_limit_is_a_number_or_unknown(text: str, limit_mb: int | None) -> None:
    assert parsers.wired_limit_mb(text) == limit_mb


@pytest.mark.parametrize(
    ("sleep", "minutes"),
    [("0", 0), ("1", 1), ("15 (sleep prevented by powerd, coreaudiod)", 15)],
)
def test_idle_sleep_is_told_from_the_sleep_of_disk_and_display(sleep: str, minutes: int) -> None:
    assert parsers.sleep_min(PMSET.format(sleep=sleep)) == minutes


@pytest.mark.parametrize("text", ["", "disksleep 10\n", " sleep never\n"])
def test_without_a_line_about_sleep_nothing_is_known(text: str) -> None:
    assert parsers.sleep_min(text) is None
