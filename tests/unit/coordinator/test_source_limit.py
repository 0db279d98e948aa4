"""So many requests a minute from one source, and no more memory than for so many sources."""

from __future__ import annotations

from rpcmesh.coordinator.source_limit import SourceLimit


def test_the_window_opens_again() -> None:
    limit = SourceLimit(limit=2, window_s=60)
    asked = [limit.retry_after_s("10.0.0.1", at) for at in (0.0, 10.0, 20.0, 59.0, 60.0, 61.0, 62.0)]
    assert asked == [None, None, 40.0, 1.0, None, None, 58.0]


def test_sources_do_not_pay_for_each_other() -> None:
    limit = SourceLimit(limit=1)
    assert limit.retry_after_s("10.0.0.1", 0) is None
    assert limit.retry_after_s("10.0.0.1", 0) is not None
    assert limit.retry_after_s("10.0.0.2", 0) is None


def test_all_addresses_of_one_ipv6_network_are_one_source() -> None:
    limit = SourceLimit(limit=1)
    assert limit.retry_after_s("fd00::1", 0) is None
    assert limit.retry_after_s("fd00::2", 0) is not None
    assert limit.retry_after_s("fd00:0:0:1::1", 0) is None


def test_memory_is_bounded_and_given_back() -> None:
    limit = SourceLimit(limit=1, window_s=60, sources=2)
    assert limit.retry_after_s("10.0.0.1", 0) is None
    assert limit.retry_after_s("10.0.0.2", 30) is None
    assert limit.retry_after_s("10.0.0.3", 31) == 60
    assert limit.retry_after_s("10.0.0.3", 61) is None  # the first one's window is over
    assert limit.retry_after_s("10.0.0.1", 62) == 60


def test_a_clock_set_back_locks_nobody_out() -> None:
    limit = SourceLimit(limit=1, window_s=60)
    assert limit.retry_after_s("10.0.0.1", 1e9) is None
    assert limit.retry_after_s("10.0.0.1", 5.0) is None
