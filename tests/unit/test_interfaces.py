"""Which address is chosen on machines of several shapes."""

import pytest

from rpcmesh.errors import RpcmeshError
from rpcmesh.interfaces import rank, require_local

CASES = [
    ("linux", {"lo": ["127.0.0.1"], "docker0": ["172.17.0.1"]}, []),
    ("linux", {"wlp3s0": ["192.168.1.5"], "enp4s0": ["10.0.0.5"]}, ["enp4s0", "wlp3s0"]),
    (
        "linux",
        {"eth0": ["10.0.0.5"], "thunderbolt0": ["10.9.0.1"], "br-1a2b": ["172.18.0.1"]},
        ["thunderbolt0", "eth0"],
    ),
    ("linux", {"eth0": ["fe80::1%eth0", "fd00::5"], "veth12": ["10.1.1.1"]}, ["eth0"]),
    ("darwin", {"en0": ["192.168.1.5"], "bridge0": ["10.10.0.1"], "utun3": ["100.64.0.1"]}, ["bridge0", "en0"]),
    ("darwin", {"bridge0": ["169.254.12.1"], "en0": ["192.168.1.5"], "awdl0": ["fe80::2"]}, ["en0"]),
]


@pytest.mark.parametrize(("platform", "addresses", "expected"), CASES)
def test_order(platform: str, addresses: dict[str, list[str]], expected: list[str]) -> None:
    assert [interface.name for interface in rank(addresses, platform)] == expected


def test_ipv4_is_preferred_on_one_interface() -> None:
    assert rank({"eth0": ["fd00::5", "10.0.0.5"]}, "linux")[0].address == "10.0.0.5"


def test_a_foreign_address_is_refused_and_ours_are_named() -> None:
    with pytest.raises(RpcmeshError) as caught:
        require_local("192.0.2.1")
    assert "192.0.2.1" in caught.value.message
    assert "127.0.0.1" in (caught.value.hint or "")
