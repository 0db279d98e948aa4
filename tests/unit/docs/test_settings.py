"""docs/operations.md lists every setting of a coordinator, a node and an engine, and none that is not there."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
import pytest

from rpcmesh import config

TEXT = (Path(__file__).parents[3] / "docs/operations.md").read_text().partition("## 8. Settings")[2]
SECTIONS = {"coordinator": config.Coordinator, "node": config.Node, "engine": config.Engine}


@pytest.mark.parametrize("section", SECTIONS)
def test_the_table_of_a_section_has_its_settings(section: str) -> None:
    table = TEXT.partition(f"| `[{section}]` |")[2].partition("\n\n")[0]
    rows = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")]

    listed = [name for row in rows for name in re.findall(r"`(\w+)`", row)]

    assert sorted(listed) == sorted(field.name for field in msgspec.structs.fields(SECTIONS[section]))
