"""Rules for pages and code that are written from declarations, and for what the Makefile runs."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path

from jobs_grpc.config.reference import markdown
from tools import calls_reference
from tools.errors_reference import OUTPUTS
from tools.lint.tree import Problem, Tree, line_of

_ROOT = Path(__file__).parents[2]
_CALLS = "docs/reference/calls.md"

# Why nightly does not run these.
_NOT_RUN = {
    "bench-hawkbit": "it needs a running hawkBit",
}


def check(tree: Tree) -> Iterator[Problem]:
    """Check what declarations and recipes determine."""
    outputs: dict[str, tuple[str, Callable[[], str]]] = {
        "docs/reference/settings.md": ("settings-reference", markdown),
        _CALLS: ("calls-reference", lambda: calls_reference.updated(tree.text(_CALLS))),
    }
    for path, text in OUTPUTS.items():
        outputs[str(path.relative_to(_ROOT))] = ("errors-reference", text)
    for path_, (target, expected) in outputs.items():
        if line := _first_difference(tree.text(path_), expected()):
            yield Problem(path_, line, "generated", f"is out of date: run `make {target}`")
    yield from _benchmarks(tree)


def _first_difference(text: str, expected: str) -> int | None:
    if text == expected:
        return None
    pairs = enumerate(zip(text.splitlines(), expected.splitlines(), strict=False), 1)
    return next((number for number, (a, b) in pairs if a != b), 1)


def _benchmarks(tree: Tree) -> Iterator[Problem]:
    """nightly, which also runs test-bench-shared and test-bench-alone, runs each benchmark."""
    makefile = tree.text("Makefile")
    recipes = re.findall(
        r"^(?:test-bench-[a-z]+|nightly):.*?\n\n", makefile, re.MULTILINE | re.DOTALL
    )
    run = set(
        re.findall(r"--no-print-directory (bench[a-z-]*) (?:ARGS|MINUTES)=", "".join(recipes))
    )
    for match in re.finditer(r"^(bench[a-z-]*):", makefile, re.MULTILINE):
        if (match[1] in run) == (match[1] in _NOT_RUN):
            line = line_of(makefile, match.start())
            problem = f"{match[1]} must be run by test-bench or nightly, or be an exception"
            yield Problem("Makefile", line, "benchmark", problem)
