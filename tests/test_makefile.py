"""Pages name existing targets of the Makefile, and `make nightly` runs every benchmark."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.test_docs import PAGES, ROOT

MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
TARGETS = set(re.findall(r"^([a-z][a-z-]*):", MAKEFILE, re.MULTILINE))
OTHERS = [ROOT / ".ci" / "run", *sorted(ROOT.glob(".github/workflows/*.yml"))]

# Why nightly does not run these.
NOT_RUN = {
    "bench-hawkbit": "it needs a running hawkBit",
}


def _commands(path: Path) -> Iterator[str]:
    """Yield the commands of a page, or of a script, that begin with `make`."""
    text = path.read_text(encoding="utf-8").replace("\\\n", "")
    if path.suffix != ".md":
        yield from re.findall(r"^(?:\s+run:)?\s*(make .*)", text, re.MULTILINE)
        return
    fence = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
    for block in fence.findall(text):
        yield from re.findall(r"^(make .*)", block, re.MULTILINE)
    for span in re.findall(r"`(make [^`]+)`", fence.sub("", text)):
        yield " ".join(span.split())


def _targets(command: str) -> Iterator[str]:
    for word in shlex.split(command, comments=True)[1:]:
        # Not an option, a variable or a file.
        if re.fullmatch(r"[a-z][a-z-]*", word):
            yield word


@pytest.mark.parametrize("path", [*PAGES, *OTHERS], ids=lambda path: str(path.relative_to(ROOT)))
def test_pages_and_workflows_name_existing_targets(path: Path) -> None:
    for command in _commands(path):
        for target in _targets(command):
            assert target in TARGETS, command


def test_commands_of_pages_are_found() -> None:
    assert "make test PG=15" in [*_commands(ROOT / "CONTRIBUTING.md")]
    assert [*_targets("make --jobs=2 check check-deploy # both")] == ["check", "check-deploy"]


def test_every_benchmark_is_run_at_tiny_size() -> None:
    # nightly also runs test-bench.
    recipes = re.findall(r"^(?:test-bench|nightly):.*?\n\n", MAKEFILE, re.MULTILINE | re.DOTALL)
    run = re.findall(r"--no-print-directory (bench[a-z-]*) (?:ARGS|MINUTES)=", "".join(recipes))

    assert {*run, *NOT_RUN} == {target for target in TARGETS if re.match(r"bench\b", target)}
    assert NOT_RUN.keys().isdisjoint(run)
