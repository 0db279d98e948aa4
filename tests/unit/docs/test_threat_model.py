"""docs/threat-model.md claims nothing that no test holds up."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from threat_model import DOCUMENT, ROOT, Named, named, names_in, rows

# What is commented out claims nothing.
TEXT = re.sub(r"<!--.*?-->", "", DOCUMENT.read_text(), flags=re.DOTALL)
CLAIMS = [row for row in rows(TEXT) if "tests" in row.cells]
ACTORS = re.findall(r"^### (.*)$", TEXT, re.MULTILINE)


def test_every_test_that_is_named_exists() -> None:
    missing = [
        one for one in named(TEXT) if not (ROOT / one.file).is_file() or one.test not in names_in(ROOT / one.file)
    ]
    assert missing == []


def test_every_claim_names_a_test() -> None:
    assert [row for row in CLAIMS if not named(row.cells["tests"])] == []


def test_nothing_in_a_column_of_tests_is_anything_else() -> None:
    for row in CLAIMS:
        assert re.sub(r"`[^`]+`", "", row.cells["tests"]).strip() == ""
        assert row.cells["tests"].count("`") == 2 * len(named(row.cells["tests"]))


@pytest.mark.parametrize("actor", ACTORS)
def test_each_actor_has_claims_and_what_is_not_stopped(actor: str) -> None:
    section = TEXT.partition(f"### {actor}\n")[2].partition("\n#")[0]
    assert [row for row in CLAIMS if row.heading == actor]
    assert "\n**Not stopped.** " in section


def test_a_renamed_test_would_be_found(tmp_path: Path) -> None:
    file = tmp_path / "test_it.py"
    file.write_text("class TestIt:\n    async def test_b(self): ...\n\ndef test_a(): ...\n\ndef helper(): ...\n")
    native = tmp_path / "it_test.cpp"
    native.write_text("void gone() {}\nint main() { return check::run({ TEST(here) }); }\n")
    assert names_in(file) == {"test_a", "test_b"}
    assert names_in(native) == {"here"}


def test_rows_are_read_as_they_stand() -> None:
    text = "## A\n\n| x | tests |\n|---|---|\n| 1 | `tests/unit/a.py::test_b` `native/tests/c.cpp::d` |\n| 2 | |\n"
    first, second = rows(text)
    assert (first.heading, first.cells["x"], second.cells) == ("A", "1", {"x": "2", "tests": ""})
    assert named(first.cells["tests"]) == [Named("tests/unit/a.py", "test_b"), Named("native/tests/c.cpp", "d")]
