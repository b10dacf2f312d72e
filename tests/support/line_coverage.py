"""Measures which lines of jobs_grpc run, at almost no cost; coverage.py makes the report.

On Python 3.11, the tracer of coverage.py slows all code of the process to half its speed, also that
of libraries. Here, a statement is inserted before each statement of jobs_grpc and notes its line.
"""

import ast
import os
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

from coverage import CoverageData

_PACKAGE = "jobs_grpc"
_ROOT = Path(__file__).parents[2]

# The name, in each module, of an array that has a 1 for each line that ran.
RAN = "__lines_that_ran__"

_ran: dict[str, bytearray] = {}


def start() -> None:
    """Measure the modules that are imported from now on."""
    assert not any(name.partition(".")[0] == _PACKAGE for name in sys.modules)
    sys.meta_path.insert(0, _Finder())


def save() -> None:
    """Write a data file for `coverage combine`, if `start` was called."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        return
    data = CoverageData(basename=str(_ROOT / ".coverage"), suffix=str(os.getpid()))
    data.add_lines(
        {path: [n for n, ran in enumerate(lines) if ran] for path, lines in _ran.items()}
    )
    # Files that no test imports count as well.
    data.touch_files([str(path) for path in (_ROOT / _PACKAGE).rglob("*.py")])
    data.write()


class _Finder(MetaPathFinder):
    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname.partition(".")[0] != _PACKAGE:
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec and spec.origin and isinstance(spec.loader, SourceFileLoader):
            spec.loader = _Loader(fullname, spec.origin)
        return spec


class _Loader(SourceFileLoader):
    def path_stats(self, path: str) -> Any:
        # Neither reads the compiled file of the module nor writes one.
        raise OSError

    def source_to_code(  # type: ignore[override]
        self, data: bytes, path: str, *, _optimize: int = -1
    ) -> CodeType:
        tree = ast.parse(data, path)
        note_lines(tree)
        code: CodeType = compile(tree, path, "exec", dont_inherit=True, optimize=_optimize)
        return code

    def exec_module(self, module: ModuleType) -> None:
        lines = bytearray(Path(self.path).read_bytes().count(b"\n") + 2)
        setattr(module, RAN, _ran.setdefault(self.path, lines))
        super().exec_module(module)


def note_lines(tree: ast.Module) -> None:
    """Insert statements that set RAN[line] to 1 for each line that runs."""
    for node in ast.walk(tree):
        for name in ("body", "orelse", "finalbody"):
            # The body of a lambda is an expression.
            if isinstance(body := getattr(node, name, None), list):
                setattr(node, name, _with_notes(body))
        # `except` and `case` are no statements.
        if isinstance(node, ast.ExceptHandler):
            node.body.insert(0, _note(node.lineno, node))
        elif isinstance(node, ast.match_case):
            node.body.insert(0, _note(node.pattern.lineno, node.pattern))


def _with_notes(body: list[ast.stmt]) -> list[ast.stmt]:
    noted: list[ast.stmt] = []
    for statement in body:
        notes = [_note(line, statement) for line in _lines(statement)]
        if statement is body[0] and _is_text(statement):
            noted.append(statement)  # A docstring does not run.
        elif isinstance(statement, ast.ImportFrom) and statement.module == "__future__":
            noted += [statement, *notes]  # No other statement may precede it.
        else:
            noted += [*notes, statement]
    return noted


def _is_text(statement: ast.stmt) -> bool:
    return (
        isinstance(statement, ast.Expr)
        and isinstance(statement.value, ast.Constant)
        and isinstance(statement.value.value, str)
    )


def _lines(statement: ast.stmt) -> list[int]:
    lines = [decorator.lineno for decorator in getattr(statement, "decorator_list", [])]
    return [*lines, statement.lineno]


def _note(line: int, where: ast.expr | ast.stmt | ast.excepthandler | ast.pattern) -> ast.stmt:
    (note,) = ast.parse(f"{RAN}[{line}] = 1").body
    for node in ast.walk(note):
        ast.copy_location(node, where)
    return note
