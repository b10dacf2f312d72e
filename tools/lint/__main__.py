"""Checks the form of SQL files, pages and references: `make check` runs this.

Prints each problem with its file, line and rule, and exits with 1 if there is any.
"""

import sys
from pathlib import Path

from tools.lint import generated, operations, pages, sql
from tools.lint.tree import Tree

if __name__ == "__main__":
    tree = Tree(Path(__file__).parents[2])
    problems = [
        problem for rules in (sql, pages, operations, generated) for problem in rules.check(tree)
    ]
    for problem in sorted(problems, key=lambda problem: (problem.path, problem.line)):
        print(problem)
    sys.exit(bool(problems))
