"""docs/threat-model.md and the attacks agree: each weakness has a case, each case a measured row. Nothing runs here."""

from __future__ import annotations

import re
from pathlib import Path

from attack_kinds import Weakness
from attack_stock import HEADER, guarded
from attacks import ALL

DOCUMENT = (Path(__file__).parents[2] / "docs" / "threat-model.md").read_text()


def section(heading: str) -> list[list[str]]:
    """The cells of the table below ``heading``, without its two first lines."""
    below = DOCUMENT.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    table = [line for line in below.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table[2:]]


def test_the_document_lists_the_weaknesses_that_are_attacked() -> None:
    listed = [cells[0] for cells in section("Weaknesses of the RPC server")]
    assert listed == [str(weakness) for weakness in Weakness]


def test_each_weakness_has_a_case() -> None:
    assert {attack.weakness for attack in ALL} == set(Weakness)


def test_no_two_attacks_share_a_name() -> None:
    assert len({attack.name for attack in ALL}) == len(ALL)


def test_each_attack_was_measured_and_stands_beside_the_guards_answer() -> None:
    measured = section("The same attacks on a stock server")
    assert [(weakness, attack, answer) for weakness, attack, _, answer in measured] == [
        (str(attack.weakness), f"`{attack.name}`", guarded(attack)) for attack in ALL
    ]
    assert "\n".join(HEADER) in DOCUMENT


def test_what_became_of_the_server_is_said_of_each() -> None:
    said = re.compile(
        r"(?:survives: |\*\*ends with SIG|\*\*next client not|\*\*discloses \d|grants \d|\*\*\d+ MiB more).*"
    )
    assert [cells for cells in section("The same attacks on a stock server") if not said.fullmatch(cells[2])] == []
