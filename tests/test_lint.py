"""tools/lint notices a violation of each of its rules."""

from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from tools.lint import generated, operations, pages, sql
from tools.lint.tree import Problem, Tree

ROOT = Path(__file__).parents[1]
FUNCTION = (
    "CREATE OR REPLACE FUNCTION jobs.f() RETURNS void LANGUAGE plpgsql\nAS $$ BEGIN {} END $$;\n"
)
API = "functions/api/f.sql"
MIGRATION = "migrations/0999_test.sql"


def page_problems(tree: Tree) -> set[Problem]:
    return {*pages.check(tree), *operations.check(tree)}


@pytest.mark.parametrize(
    ("rule", "path", "text", "line"),
    [
        ("line-length", API, FUNCTION.format("--" + "x" * 120 + "\n"), 2),
        ("clock", API, FUNCTION.format("PERFORM clock_timestamp();"), 2),
        ("clock", MIGRATION, "CREATE TABLE t (a date DEFAULT CURRENT_DATE);\n", 1),
        ("settings", API, "\n-- settings: lookup, nested loop\n" + FUNCTION.format(""), 2),
        ("settings", API, "\n-- settings: tenant\n" + FUNCTION.format(""), 2),
        ("contract", API, FUNCTION.format("/* for each wrong FIELD: FIELD */"), 1),
        ("contract", API, FUNCTION.format("/* maximum of CreateJobRequest.job_id */"), 1),
        ("object", API, FUNCTION.format("").replace("jobs.f", "jobs.g"), 1),
        ("object", "views/v.sql", "CREATE OR REPLACE VIEW jobs.w AS SELECT 1;\n", 1),
        ("error", API, FUNCTION.format("\nPERFORM jobs.raise_error('JOB_LOST');"), 3),
        ("error", API, FUNCTION.format("RAISE 'lost';"), 2),
        ("migration", MIGRATION, "CREATE TABLE a (b int);\nCREATE INDEX i ON c (d);\n", 2),
        ("migration", MIGRATION, "DROP INDEX i;\n", 1),
        ("migration", MIGRATION, "ALTER TABLE a ADD b int;\nDROP TABLE c;\n", 2),
        ("migration", MIGRATION, "-- outside a transaction\nCREATE INDEX i ON a (b);\n", 1),
        ("statements", API, FUNCTION.format("") + "CREATE\nMISTAKE;\n", 4),
    ],
)
def test_violation_in_sql_is_found(
    tmp_path: Path, rule: str, path: str, text: str, line: int
) -> None:
    path = f"{sql.SQL}/{path}"

    problems = sql.check(Tree(tmp_path, {path: text}))

    assert places(problems) == [(path, line, rule)]


def test_cycle_of_functions_is_found(tmp_path: Path) -> None:
    first = FUNCTION.format("\nPERFORM jobs.g();")
    second = FUNCTION.format("\n\nPERFORM jobs.f();").replace("jobs.f()", "jobs.g()", 1)
    path = f"{sql.SQL}/functions/api"

    [problem] = sql.check(Tree(tmp_path, {f"{path}/f.sql": first, f"{path}/g.sql": second}))

    lines = {f"{path}/f.sql": 3, f"{path}/g.sql": 4}
    assert (lines[problem.path], problem.rule) == (problem.line, "cycle")


def test_accepted_sql_has_no_problem(tmp_path: Path) -> None:
    comment = "-- settings: lookup, nested loops\n-- now(), RAISE and DROP INDEX.\n"
    body = "PERFORM jobs.now(); PERFORM jobs.raise_error('JOB_NOT_FOUND');"
    files = {
        API: comment + FUNCTION.format(body),
        "functions/internal/g.sql": FUNCTION.format("").replace("jobs.f", "jobs.g"),
        MIGRATION: "CREATE TABLE a (b int);\nCREATE INDEX i ON a (b);\nALTER TABLE c ADD d int;\n",
    }

    assert not [*sql.check(Tree(tmp_path, {f"{sql.SQL}/{name}": files[name] for name in files}))]


# What breaks a rule: the rule, a page, and a text of the page with its replacement.
VIOLATIONS = (
    ("line-length", "docs/tour.md", "\n\n", f"\n{'a ' * 61}\n"),
    ("page-length", "docs/tour.md", "\n\n", "\n" * 250),
    ("path", "docs/tour.md", "\n\n", "\n`tests/db/test_nothing.py`\n"),
    ("sql-object", "docs/tour.md", "\n\n", "\n`jobs.nothing`\n"),
    ("link", "docs/tour.md", "\n\n", "\n[page](nothing.md)\n"),
    ("link", "docs/tour.md", "\n\n", "\n[heading](cli.md#nothing)\n"),
    ("make", "docs/tour.md", "\n\n", "\n`make test\nnothing PG=15`\n"),
    ("make", "docs/tour.md", "\n\n", "\n```sh\nmake nothing\n```\n"),
    ("make", ".ci/run", "\nmake test\n", "\nmake tests\n"),
    ("index", "docs/README.md", "](tour.md)", "](cli.md)"),
    ("index", "docs/decisions/README.md", "](citus.md)", "](plans.md)"),
    ("tables", "docs/architecture.md", "| `jobs.devices`", "| jobs.devices"),
    ("extras", "docs/decisions/dependencies.md", "| `otel` |", "| otel |"),
    ("version", "README.md", "'jobs_grpc-", "'jobs-"),
    ("alert", "deploy/prometheus/alerts.yml", "alerts.md#jobs", "alerts.md#other"),
    ("alert", "docs/operations/alerts.md", "\n#### Jobs", "\n#### JobsX"),
    ("metric", "deploy/prometheus/alerts.yml", "expr: jobs_", "expr: jobs_nothing_"),
    ("doctor", "docs/operations.md", "- `clock`:", "- clock:"),
    ("suite", "CONTRIBUTING.md", "| `tests/limits` |", "| limits |"),
    ("threat", "docs/threat-model.md", ".py::test_", ".py::test_nothing_"),
    ("threat", "docs/threat-model.md", "\n\n- **", "\n- **A threat** without tests.\n- **"),
)
OUT_OF_DATE = (
    ("generated", "docs/reference/settings.md", "`JOBS_LISTEN`", "`JOBS_LISTENS`"),
    ("generated", "docs/reference/calls.md", "| viewer", "| operator"),
    ("generated", "docs/reference/errors.md", "JOB_NOT_FOUND", "JOB_LOST"),
    ("benchmark", "Makefile", "bench-herd ARGS", "bench-year ARGS"),
)


def planted(violations: Iterable[tuple[str, str, str, str]]) -> Tree:
    """Return this repository with violations in its pages."""
    texts: dict[str, str] = {}
    for _, path, before, after in violations:
        text = texts.get(path) or Tree(ROOT).text(path)
        assert before in text
        texts[path] = text.replace(before, after, 1)
    return Tree(ROOT, texts)


def test_each_violation_in_a_page_is_found() -> None:
    # make check shows the problems that the pages have themselves.
    found = page_problems(planted(VIOLATIONS)) - page_problems(Tree(ROOT))

    assert Counter((problem.path, problem.rule) for problem in found) == Counter(
        (path, rule) for rule, path, *_ in VIOLATIONS
    )


def test_what_is_out_of_date_is_found() -> None:
    lines = {
        path: Tree(ROOT).text(path).partition(before)[0].count("\n") + 1
        for rule, path, before, _ in OUT_OF_DATE
        if rule == "generated"
    }

    problems = places(generated.check(planted(OUT_OF_DATE)))

    assert [(path, rule) for path, _, rule in problems] == [
        (path, rule) for rule, path, *_ in OUT_OF_DATE
    ]
    assert [line for _, line, rule in problems if rule == "generated"] == [*lines.values()]


def test_problem_is_shown_with_its_file_line_and_rule() -> None:
    assert str(Problem("docs/a.md", 3, "link", "b.md does not exist")) == (
        "docs/a.md:3: b.md does not exist [link]"
    )


def places(problems: Iterator[Problem]) -> list[tuple[str, int, str]]:
    """Return where the problems are, and which rules are broken."""
    return [(problem.path, problem.line, problem.rule) for problem in problems]
