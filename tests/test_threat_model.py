"""docs/threat-model.md names tests that exist."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "threat-model.md").read_text(encoding="utf-8")


def test_threat_table_names_existing_tests() -> None:
    table = PAGE.partition("# Threat model")[2].partition("\n## Not prevented")[0]
    rows = [line for line in table.splitlines() if line.startswith("| ")][1:]
    assert len(rows) > 20

    for row in rows:
        tests = row.split("|")[3]
        named = [
            (ROOT / "tests" / file, f"def {test}")
            for file, test in re.findall(r"`((?:\w+/)?test_\w+\.py)(?:::(test_\w+))?`", tests)
        ]
        named += [
            (ROOT / file, f"func {test}(")
            for file, test in re.findall(r"`(gateway/[\w/]+_test\.go)::(Test\w+)`", tests)
        ]
        assert len(named) == tests.count("`") / 2 > 0, row
        for file, test in named:
            assert test in file.read_text(encoding="utf-8"), row
