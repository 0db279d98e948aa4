"""A minute of each native fuzz target, from the committed corpus and both at once, finds nothing."""

from __future__ import annotations

from pathlib import Path

import fuzzing
import pytest

from rpcmesh.errors import RpcmeshError
from rpcmesh.native_build import programs

SECONDS = 60


@pytest.fixture
def libfuzzer(tmp_path: Path) -> None:
    try:
        programs.clang_with_libfuzzer(tmp_path)
    except RpcmeshError as missing:
        pytest.skip(f"{missing}; {missing.hint}")


@pytest.mark.usefixtures("libfuzzer")
def test_a_minute_of_each_target_finds_nothing(tmp_path: Path) -> None:
    with fuzzing.compiled_targets() as place:
        outcomes = fuzzing.fuzz(place, tmp_path / "inputs", fuzzing.KEPT / "crashes", SECONDS)

    for outcome in outcomes:
        committed = len(list((fuzzing.CORPUS / outcome.target).iterdir()))
        assert outcome.status == 0, f"{outcome.target}: kept {outcome.crashes}\n{outcome.said}"
        assert outcome.crashes == ()
        assert outcome.runs > committed > 0
