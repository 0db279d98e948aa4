"""The attacks are real: a stock server falls to them. `make attack-stock` tries all; here is one of each kind."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

# The first run on a machine links the stock server.
LIMIT_S = 300
BECOMES = {
    "half_a_hello": r"\*\*next client not served within 2 s\*\*.*",
    "read_of_a_fresh_buffer": r"\*\*discloses \d{5} bytes\*\*",
    "set_of_2_63_bytes": r"\*\*ends with SIGABRT\*\*",
    "device_that_is_not_there": r"survives: hangs up",
}


def test_the_table_says_what_becomes_of_a_stock_server() -> None:
    script = Path(__file__).with_name("attack_stock.py")
    done = subprocess.run(
        [sys.executable, str(script), *BECOMES], capture_output=True, text=True, timeout=LIMIT_S, check=True
    )
    rows = done.stdout.splitlines()[2:]
    assert len(rows) == len(BECOMES)
    for row, (attack, becomes) in zip(rows, BECOMES.items(), strict=True):
        assert re.fullmatch(rf"\| [^|]+ \| `{attack}` \| {becomes} \| [^|]+ \|", row), row
