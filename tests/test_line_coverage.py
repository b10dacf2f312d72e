"""The coverage that `make coverage` measures: which lines of a module ran."""

import ast

from coverage.parser import PythonParser

from tests.support.line_coverage import RAN, note_lines

ALL_RUN = '''\
"""A docstring."""
from __future__ import annotations

import contextlib
from dataclasses import (
    dataclass,
    field,
)

def decorate(function):
    return function

@dataclass(
    frozen=True
)
class Point:
    """A docstring."""

    x: int
    """The docstring of an attribute."""
    y: int = field(
        default=1
    )

@decorate
@decorate
def kind(value):
    """A docstring."""
    global seen
    seen = value
    match value:
        case int():
            return "int"
        case str():
            return "str"
    if value is None: return "None"
    elif isinstance(value, list):
        for item in value:
            seen = item
        else:
            seen = [
                item for item in value
            ]
        while value:
            value.pop()
        return "list"
    else:
        try:
            raise ValueError
        except (
            ValueError
        ) as e:
            seen = e
        finally:
            seen = None
        with contextlib.suppress(ValueError), \\
                contextlib.suppress(KeyError):
            raise KeyError
    return (
        "other"
    )

async def later():
    async with contextlib.AsyncExitStack():
        await kind(0)

assert [kind(v) for v in (1, "", None, [2], 0.5)] == ["int", "str", "None", "list", "other"]
with contextlib.suppress(TypeError):
    later().send(None)
'''

ONE_BRANCH = """\
def f(x):
    if x:
        y = 1
    else:
        y = 2
    return y
f(1)
"""


def lines_that_run(source: str) -> set[int]:
    """Run a module and return its lines that ran."""
    tree = ast.parse(source)
    note_lines(tree)
    ran = bytearray(source.count("\n") + 2)
    exec(compile(tree, "module", "exec", dont_inherit=True), {RAN: ran, "__name__": __name__})  # noqa: S102
    return {line for line, did_run in enumerate(ran) if did_run}


def statements(source: str) -> set[int]:
    """Return the first lines of the statements that coverage.py counts."""
    parser = PythonParser(text=source)
    parser.parse_source()
    return set(parser.statements)


def test_all_statements_run_when_each_branch_does() -> None:
    assert statements(ALL_RUN) - lines_that_run(ALL_RUN) == set()


def test_statements_of_a_branch_do_not_run_when_another_does() -> None:
    assert statements(ONE_BRANCH) - lines_that_run(ONE_BRANCH) == {5}
