"""Rules for the SQL files of the service. Comments do not count."""

import re
from collections.abc import Iterator
from pathlib import PurePath

import pglast

from jobs_grpc.db.contract_sql import with_contract
from jobs_grpc.db.function_settings import with_settings
from jobs_grpc.db.index_migrations import index_statements
from jobs_grpc.db.schema import Migration, SchemaError, order_by_dependency
from jobs_grpc.db.sql_statements import split_statements
from jobs_grpc.errors import BY_SQLSTATE
from tools.lint.tree import Problem, Tree, line_of, numbered

SQL = "jobs_grpc/db/sql"
_MAX_LENGTH = 120

_CLOCK = re.compile(
    r"(?<!jobs\.)\b(now|timeofday|(clock|statement|transaction)_timestamp)\("
    r"|\b(CURRENT_|LOCAL)(TIME|DATE)",
    re.IGNORECASE,
)
_MAY_READ_THE_CLOCK = {
    f"{SQL}/functions/internal/now.sql",
    f"{SQL}/functions/internal/clock_time.sql",
    # The defaults of tables that exist before any function.
    f"{SQL}/bootstrap.sql",
    # These examine the clock and the sessions of the server, also without the schema.
    f"{SQL}/checks/doctor/clock.sql",
    f"{SQL}/checks/doctor/dead_rows.sql",
    f"{SQL}/checks/doctor/sessions.sql",
}


def check(tree: Tree) -> Iterator[Problem]:
    """Check all SQL files."""
    code = tree.files(f"{SQL}/functions/**/*.sql", f"{SQL}/views/*.sql")
    for path in tree.files(f"{SQL}/**/*.sql"):
        text = tree.text(path)
        yield from _lines(path, text)
        yield from _clock(path, without_comments(text))
    for path in code:
        text = tree.text(path)
        yield from _settings(path, text)
        yield from _object(path, without_comments(text))
        yield from _errors(path, without_comments(text))
    yield from _dependencies(tree, code)
    for path in tree.files(f"{SQL}/migrations/*.sql"):
        yield from _migration(path, tree.text(path))
    for path in (*code, *tree.files(f"{SQL}/migrations/*.sql", f"{SQL}/bootstrap.sql")):
        yield from _statements(path, tree.text(path))


def without_comments(sql: str) -> str:
    """Return SQL without its comments, but with all of its lines."""
    return re.sub(r"--.*", "", sql)


def _lines(path: str, text: str) -> Iterator[Problem]:
    for number, line in numbered(text):
        if len(line) > _MAX_LENGTH:
            problem = f"has {len(line)} characters: at most {_MAX_LENGTH}"
            yield Problem(path, number, "line-length", problem)


def _clock(path: str, sql: str) -> Iterator[Problem]:
    if path not in _MAY_READ_THE_CLOCK:
        for match in _CLOCK.finditer(sql):
            problem = f"{match[0]} reads the clock: call jobs.now() or jobs.clock_time()"
            yield Problem(path, line_of(sql, match.start()), "clock", problem)


def _settings(path: str, text: str) -> Iterator[Problem]:
    try:
        with_settings(text, is_entry=False)
    except (KeyError, ValueError) as e:
        line = line_of(text, text.index("-- settings:"))
        problem = f"{e} is not a set of jobs_grpc/db/function_settings.py"
        yield Problem(path, line, "settings", str(e) if isinstance(e, ValueError) else problem)


def _object(path: str, sql: str) -> Iterator[Problem]:
    name = f"jobs.{PurePath(path).stem}"
    created = re.findall(r"CREATE OR REPLACE (?:FUNCTION|VIEW) (\S+?)[( ]", sql)
    if created != [name]:
        problem = f"creates {', '.join(created) or 'nothing'}: the file must create {name} only"
        yield Problem(path, 1, "object", problem)


def _errors(path: str, sql: str) -> Iterator[Problem]:
    known = {error_type.upper_name() for error_type in BY_SQLSTATE.values()}
    for match in re.finditer(r"raise_error\(\s*'(\w+)'", sql):
        if match[1] not in known:
            problem = f"no class of jobs_grpc/errors.py with an SQLSTATE is {match[1]}"
            yield Problem(path, line_of(sql, match.start()), "error", problem)
    if PurePath(path).stem != "raise_error" and (raised := re.search(r"RAISE ", sql)):
        line = line_of(sql, raised.start())
        yield Problem(path, line, "error", "raise errors with jobs.raise_error")


def _dependencies(tree: Tree, code: list[str]) -> Iterator[Problem]:
    paths = {PurePath(path).stem: path for path in code}
    texts = {name: tree.text(path) for name, path in paths.items()}
    try:
        order_by_dependency(texts)
    except SchemaError as e:
        first, second, *_ = re.findall(r"\w+", str(e).partition("cycle: ")[2])
        named = re.search(rf"\bjobs\.{second}\b", without_comments(texts[first]))
        line = line_of(texts[first], named.start()) if named else 1
        yield Problem(paths[first], line, "cycle", str(e))


def _migration(path: str, text: str) -> Iterator[Problem]:
    """Calls lock tables in several orders, so a migration that locks two can end in a deadlock."""
    if not Migration(1, "", text).in_transaction:
        try:
            index_statements(Migration(1, "", text))
        except SchemaError as e:
            yield Problem(path, 1, "migration", str(e))
        return
    sql = without_comments(text)
    new = set(re.findall(r"CREATE TABLE (\S+)", sql))
    for match in re.finditer(
        r"CREATE (?:UNIQUE )?INDEX\s+.*?\bON\s+(\S+)|DROP INDEX", sql, re.DOTALL
    ):
        if match[1] not in new:
            problem = "an index of an existing table needs a migration `-- outside a transaction`"
            yield Problem(path, line_of(sql, match.start()), "migration", problem)
    locked = [
        match for match in re.finditer(r"(?:ALTER|DROP) TABLE (\S+)", sql) if match[1] not in new
    ]
    if other := next((match for match in locked if match[1] != locked[0][1]), None):
        problem = f"locks {locked[0][1]} and {other[1]}: change at most one existing table"
        yield Problem(path, line_of(sql, other.start()), "migration", problem)


def _statements(path: str, text: str) -> Iterator[Problem]:
    """split_statements must find the statements that PostgreSQL finds."""
    try:
        text = with_contract(text)
    except (AttributeError, KeyError, ValueError) as e:
        yield Problem(path, 1, "contract", f"has a comment that the contract cannot fill: {e}")
        return
    try:
        expected = len(pglast.parse_sql(text))
        parsed = [len(pglast.parse_sql(statement)) for statement in split_statements(text)]
    except pglast.parser.ParseError as e:
        position = e.args[1] if len(e.args) > 1 else 0
        yield Problem(path, line_of(text, position), "statements", e.args[0])
        return
    if parsed != [1] * expected:
        problem = f"split_statements finds {len(parsed)} statements, PostgreSQL {expected}"
        yield Problem(path, 1, "statements", problem)
