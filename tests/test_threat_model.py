"""docs/threat-model.md and docs/threat-model/ name tests that exist."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"


@pytest.mark.parametrize("page", ["threat-model.md", "threat-model/overload.md"])
def test_each_threat_names_existing_tests(page: str) -> None:
    text = (DOCS / page).read_text(encoding="utf-8")
    threats = re.sub(r"(?m)^## .*\n", "", text.partition("\n## Not prevented")[0])
    entries = threats.split("\n- **")[1:]
    assert len(entries) > 20

    for entry in entries:
        # The tests begin a line after the last sentence.
        tests = "`" + entry.rpartition(".\n  `")[2]
        named = [
            (ROOT / "tests" / file, f"def {test}")
            for file, test in re.findall(r"`((?:\w+/)?test_\w+\.py)(?:::(test_\w+))?`", tests)
        ]
        named += [
            (ROOT / file, f"func {test}(")
            for file, test in re.findall(r"`(gateway/[\w/]+_test\.go)::(Test\w+)`", tests)
        ]
        assert len(named) == tests.count("`") / 2 > 0, entry
        for file, test in named:
            assert test in file.read_text(encoding="utf-8"), entry
