"""Which address is bound: what was asked for if it is ours, else the best found, with the others named."""

from __future__ import annotations

import pytest

from rpcmesh import config, interfaces
from rpcmesh.cli import listening
from rpcmesh.errors import RpcmeshError


@pytest.mark.parametrize("asked", ["127.0.0.1:7443", "0.0.0.0:1", "localhost:65535"])
def test_an_address_of_this_machine_is_kept_as_asked(asked: str) -> None:
    assert listening.choose(asked, 9) == listening.Chosen(listen=asked)


def test_an_address_found_on_this_machine_is_kept_too() -> None:
    asked = config.join_address(interfaces.candidates()[0].address, 7443)
    assert listening.choose(asked, 9) == listening.Chosen(listen=asked)


# Addresses of documentation alone (RFC 5737, RFC 3849): no machine has them.
@pytest.mark.parametrize(("asked", "host"), [("192.0.2.1:7443", "192.0.2.1"), ("[2001:db8::1]:7443", "2001:db8::1")])
def test_an_address_of_another_machine_is_refused_with_ours_named(asked: str, host: str) -> None:
    with pytest.raises(RpcmeshError) as caught:
        listening.choose(asked, 9)

    assert f"{host!r} is not an address of this machine" in caught.value.message
    assert "127.0.0.1" in (caught.value.hint or "")


@pytest.mark.parametrize("asked", ["", "7443", "127.0.0.1", "127.0.0.1:", "127.0.0.1:http", "127.0.0.1:65536"])
def test_what_is_no_address_is_refused_before_anything_is_bound(asked: str) -> None:
    with pytest.raises(RpcmeshError):
        listening.choose(asked, 9)


def test_without_a_wish_the_best_candidate_is_taken_and_the_rest_are_named() -> None:
    best, *rest = interfaces.candidates()

    chosen = listening.choose(None, 7443)

    assert (chosen.listen, chosen.reason) == (config.join_address(best.address, 7443), best.reason)
    assert len(chosen.others) == len(rest)
    for found, sentence in zip(rest, chosen.others, strict=True):
        assert sentence == f"{found.reason}: --listen {config.join_address(found.address, 7443)}"
        assert listening.choose(sentence.rpartition(" ")[2], 9).listen.endswith(":7443")  # it can be typed back


def test_the_reason_is_shown_with_the_address() -> None:
    assert str(listening.Chosen("10.0.0.5:7443", "Ethernet, eth0")) == "10.0.0.5:7443 (Ethernet, eth0)"
    assert str(listening.Chosen("10.0.0.5:7443")) == "10.0.0.5:7443"
