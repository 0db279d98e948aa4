"""What Linux and its tools say, read from texts as they print them."""

from __future__ import annotations

from pathlib import Path

import pytest

from rpcmesh.doctor import read_linux
from rpcmesh.doctor.read_linux import Confinement

# As of a service under systemd, shortened.
STATUS = """Name:\trpc-server
Umask:\t0077
State:\tS (sleeping)
Pid:\t4711
Uid:\t998\t998\t998\t998
Gid:\t998\t998\t998\t998
VmRSS:\t  140204 kB
CapEff:\t0000000000000000
NoNewPrivs:\t{privileges}
Seccomp:\t{seccomp}
Seccomp_filters:\t{seccomp}
Speculation_Store_Bypass:\tvulnerable
"""


@pytest.mark.parametrize(
    ("text", "mode"),
    [
        ("always [madvise] never", "madvise"),
        ("[always] madvise never\n", "always"),
        ("always madvise [never]", "never"),
        ("", None),
        ("always madvise never", None),
    ],
)
def test_the_mode_of_huge_pages_is_the_one_in_brackets(text: str, mode: str | None) -> None:
    assert read_linux.huge_pages(text) == mode


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Enabled\n", ("Enabled",)),
        ("Disabled\nEnabled\n", ("Disabled", "Enabled")),
        ("[N/A]\n", ("[N/A]",)),
        ("", ()),
        ("No devices were found\n", ()),
        ("NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver.\n", ()),
    ],
)
def test_each_gpu_has_a_word_and_an_error_is_none(text: str, words: tuple[str, ...]) -> None:
    assert read_linux.persistence(text) == words


@pytest.mark.parametrize(
    ("privileges", "seccomp", "expected"),
    [
        (1, 2, Confinement(uid=998, no_new_privileges=True, call_filter=True)),
        (0, 0, Confinement(uid=998, no_new_privileges=False, call_filter=False)),
        # Strict mode, which no worker could run in, is no filter.
        (1, 1, Confinement(uid=998, no_new_privileges=True, call_filter=False)),
    ],
)
def test_a_process_says_what_confines_it(privileges: int, seccomp: int, expected: Confinement) -> None:
    assert read_linux.confinement(STATUS.format(privileges=privileges, seccomp=seccomp)) == expected


def test_a_set_uid_program_counts_as_whom_it_acts_for() -> None:
    found = read_linux.confinement("Uid:\t1000\t0\t0\t0\nNoNewPrivs:\t0\nSeccomp:\t0\n")

    assert found is not None
    assert found.uid == 0


@pytest.mark.parametrize("text", ["", "Uid:\t0\nNoNewPrivs:\t1\n", "Uid:\tx\ty\nNoNewPrivs:\t1\n", "Uid:\t1\t1\n"])
def test_a_status_that_lacks_something_is_none(text: str) -> None:
    assert read_linux.confinement(text) is None


def test_this_very_process_is_readable() -> None:
    assert read_linux.confinement(Path("/proc/self/status").read_text()) is not None


@pytest.mark.parametrize(
    ("trips", "limit_c"),
    [
        ({}, None),
        ({"trip_point_0_type": "critical\n", "trip_point_0_temp": "105000\n"}, 105.0),
        (
            {
                "trip_point_0_type": "critical",
                "trip_point_0_temp": "105000",
                "trip_point_1_type": "hot",
                "trip_point_1_temp": "99500",
                "trip_point_2_type": "passive",
                "trip_point_2_temp": "60000",
            },
            99.5,
        ),
        # Not used; not there; no number.
        ({"trip_point_0_type": "hot", "trip_point_0_temp": "-274000"}, None),
        ({"trip_point_0_type": "hot"}, None),
        ({"trip_point_0_type": "critical", "trip_point_0_temp": "warm"}, None),
    ],
)
def test_a_zone_is_limited_by_the_lowest_of_its_hot_and_critical_points(
    trips: dict[str, str], limit_c: float | None
) -> None:
    assert read_linux.limit_c(trips) == limit_c


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("masked\nmasked\n", {"sleep.target": "masked", "suspend.target": "masked"}),
        ("static\nmasked\n", {"sleep.target": "static", "suspend.target": "masked"}),
        ("", None),
        ("static\n", None),
        ("Failed to connect to bus: No such file or directory\n", None),
    ],
)
def test_each_unit_has_a_state_or_none_is_known(text: str, expected: dict[str, str] | None) -> None:
    assert read_linux.unit_states(("sleep.target", "suspend.target"), text) == expected
