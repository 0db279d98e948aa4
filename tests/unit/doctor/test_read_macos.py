"""What macOS prints about its settings, read without a Mac."""

from __future__ import annotations

import sys

import pytest

from rpcmesh.doctor import read_macos
from rpcmesh.doctor.facts import Bridge

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
    assert read_macos.wired_limit_mb(text) == limit_mb


@pytest.mark.parametrize(
    ("sleep", "minutes"),
    [("0", 0), ("1", 1), ("15 (sleep prevented by powerd, coreaudiod)", 15)],
)
def test_idle_sleep_is_told_from_the_sleep_of_disk_and_display(sleep: str, minutes: int) -> None:
    assert read_macos.sleep_min(PMSET.format(sleep=sleep)) == minutes


@pytest.mark.parametrize("text", ["", "disksleep 10\n", " sleep never\n"])
def test_without_a_line_about_sleep_nothing_is_known(text: str) -> None:
    assert read_macos.sleep_min(text) is None


@pytest.mark.parametrize(
    ("text", "limit"),
    [
        ("\tmaxfiles    256            unlimited      \n", sys.maxsize),
        ("\tmaxfiles    10000          10240          \n", 10240),
        ("\tmaxproc     1392           2088\n\tmaxfiles    256            512\n", 512),
        ("", None),
        ("\tmaxfiles    256\n", None),
        ('Unrecognized target specifier "maxfiles"\n', None),
    ],
)
def test_of_both_limits_of_open_files_the_hard_one_counts(text: str, limit: int | None) -> None:
    assert read_macos.files_limit(text) == limit


NOTES = """Note: No thermal warning level has been recorded
Note: No performance warning level has been recorded
"""
POWER = """2026-08-20 05:08:37 -0700 CPU Power notify
\tCPU_Scheduler_Limit \t= 100
\tCPU_Available_CPUs \t= 12
\tCPU_Speed_Limit \t= {limit}
"""


@pytest.mark.parametrize(
    ("text", "percent"),
    [
        (NOTES, 100),
        (NOTES + POWER.format(limit=100), 100),
        (NOTES + POWER.format(limit=62), 62),
        (POWER.format(limit=80) + POWER.format(limit=55), 55),
        (POWER.format(limit=120), 100),
        ("", None),
        ("Usage: pmset <options>\n", None),
    ],
)
def test_a_cpu_is_as_slow_as_pmset_says_and_well_when_it_warns_of_nothing(text: str, percent: int | None) -> None:
    assert read_macos.speed_limit_pct(text) == percent


IFCONFIG = """bridge0: flags=8863<UP,BROADCAST,SMART,RUNNING,SIMPLEX,MULTICAST> mtu {mtu}
\toptions=63<RXCSUM,TXCSUM,TSO4,TSO6>
\tether 66:76:ba:ea:38:00
{addresses}\tConfiguration:
\t\tid 0:0:0:0:0:0 priority 0 hellotime 0 fwddelay 0
\t\tmaxage 0 holdcnt 0 proto stp maxaddr 100 timeout 1200
\t\troot id 0:0:0:0:0:0 priority 0 ifcost 0 port 0
\t\tipfilter disabled flags 0x0
\tmember: en1 flags=3<LEARNING,DISCOVER>
\t        ifmaxaddr 0 port 5 priority 0 path cost 0
\tnd6 options=201<PERFORMNUD,DAD>
\tmedia: <unknown type>
\tstatus: {status}
"""
GIVEN = "\tinet 10.10.0.1 netmask 0xffffff00 broadcast 10.10.0.255\n"
GIVEN_6 = "\tinet6 fd00:6d65:7368::1 prefixlen 64\n"
BY_ITSELF = "\tinet6 fe80::c3d:1%bridge0 prefixlen 64 scopeid 0x9\n\tinet 169.254.12.7 netmask 0xffff0000\n"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (IFCONFIG.format(mtu=1500, addresses="", status="inactive"), Bridge(False, 1500)),
        (IFCONFIG.format(mtu=1500, addresses=BY_ITSELF, status="active"), Bridge(True, 1500)),
        (IFCONFIG.format(mtu=9000, addresses=BY_ITSELF + GIVEN, status="active"), Bridge(True, 9000, ("10.10.0.1",))),
        (
            IFCONFIG.format(mtu=9000, addresses=GIVEN + GIVEN_6, status="active"),
            Bridge(True, 9000, ("10.10.0.1", "fd00:6d65:7368::1")),
        ),
        ("", None),
        ("ifconfig: interface bridge0 does not exist\n", None),
    ],
)
def test_a_bridge_has_the_addresses_that_it_was_given(text: str, expected: Bridge | None) -> None:
    assert read_macos.bridge(text) == expected
