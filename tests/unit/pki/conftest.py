"""A mesh's authority, a foreign one, and signed material of both."""

from __future__ import annotations

from pathlib import Path

import pytest

from rpcmesh.pki.authority import Authority

NOW = 1_800_000_000.0


@pytest.fixture
def now() -> float:
    return NOW


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority.create(tmp_path / "authority", "m", NOW)


@pytest.fixture
def foreign(tmp_path: Path) -> Authority:
    """Another mesh of the very same name."""
    return Authority.create(tmp_path / "foreign", "m", NOW)
