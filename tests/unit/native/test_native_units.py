"""The native tests pass: as they are, and under the address, undefined-behaviour and thread sanitizers."""

from __future__ import annotations

from pathlib import Path

import pytest
from native_objects import SANITIZERS, built, run

from rpcmesh import paths

# An upper bound for a slow and busy machine.
TESTS_LIMIT_S = 900


@pytest.mark.parametrize("sanitizer", SANITIZERS)
def test_the_native_tests_pass(sanitizer: str, llama_source: Path, tmp_path: Path) -> None:
    with built(sanitizer, llama_source, tmp_path) as objects:
        shown = run(["ctest", "--test-dir", str(objects), "--output-on-failure", "--no-tests=error"], TESTS_LIMIT_S)

    for test in paths.shipped("native").glob("tests/*_test.cpp"):
        assert f": {test.stem.removesuffix('_test')} " in shown, f"{test.name} is no part of tests/CMakeLists.txt"
