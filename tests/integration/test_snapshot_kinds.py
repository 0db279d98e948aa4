"""Saved cells continue a sequence in another context, whatever kind of memory the model has."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from recordings import models
from recordings.models import Model

from rpcmesh.native_build import Build

HERE = Path(__file__).parent
# Attention, expert layers, three kinds of sliding window, MLA, M-RoPE, and those whose state cannot be cut.
CUT = ("llama", "mixtral", "qwen2vl", "gemma2", "gemma3", "gpt-oss", "deepseek2")
WHOLE = ("mamba", "mamba2", "granitehybrid", "lfm2", "rwkv7", "qwen3next")


@pytest.mark.parametrize("model", [models.BY_NAME[name] for name in (*CUT, *WHOLE)], ids=lambda model: model.name)
def test_the_next_token_is_as_likely_as_where_the_cells_were_saved(model: Model, build: Build, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, HERE / "pieces_client.py", model.write(tmp_path)],
        env=os.environ | {"LLAMA_CPP_LIB_PATH": str(build.lib_dir), "GGML_NO_BACKTRACE": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )

    assert done.returncode == 0, done.stderr[-2000:]
    told = json.loads(done.stdout)
    assert told["whole"] is (model.name in WHOLE)
    here, there = told["logits"]
    assert there == pytest.approx(here, rel=1e-3, abs=1e-3 * max(map(abs, here)))
