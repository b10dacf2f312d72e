"""Reads the SQL files of this version: migrations, views, functions and statements."""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from graphlib import CycleError, TopologicalSorter
from importlib.resources import files

from jobs_grpc.db.contract_sql import with_contract
from jobs_grpc.db.function_settings import with_settings

_MIGRATION = re.compile(r"(\d{4})_(\w+)\.sql")

# What calls and maintenance use.
_ENTRY_FOLDERS = ("functions/api", "functions/maintenance")
_CODE_FOLDERS = ("functions/internal", *_ENTRY_FOLDERS, "views")

_COMMENT = re.compile(r"--.*")
_NAME = re.compile(r"\bjobs\.(\w+)")

# A statement of grants.sql for tables and views.
_TABLE_GRANT = re.compile(r"^GRANT ([A-Z, ]+) ON\s+(jobs\.\w+(?:,\s+jobs\.\w+)*) TO", re.MULTILINE)


class SchemaError(Exception):
    """The SQL files of this version contradict each other."""


# The first line of a migration that creates or drops indexes concurrently.
_OUTSIDE_TRANSACTION = "-- outside a transaction"
_AFTER_CODE = "-- outside a transaction, after views and functions"


@dataclass(frozen=True, slots=True)
class Migration:
    """A migration. It runs once per database; its SQL must not change after the release."""

    version: int
    name: str
    sql: str

    @property
    def label(self) -> str:
        return f"{self.version:04} {self.name}"

    @property
    def checksum(self) -> str:
        return _checksum(self.sql)

    @property
    def in_transaction(self) -> bool:
        """Whether one transaction applies and records it."""
        return self._first_line not in (_OUTSIDE_TRANSACTION, _AFTER_CODE)

    @property
    def after_code(self) -> bool:
        """Whether it runs after the views and functions of this version were applied."""
        return self._first_line == _AFTER_CODE

    @property
    def _first_line(self) -> str:
        return self.sql.partition("\n")[0]


@cache
def read_sql(name: str) -> str:
    """Return the text of sql/`name`."""
    return files("jobs_grpc.db").joinpath("sql", name).read_text(encoding="utf-8")


@cache
def table_privileges() -> tuple[tuple[str, str], ...]:
    """Return the tables and views of grants.sql, each with a privilege that it grants."""
    return tuple(
        (name, privilege)
        for grant in _TABLE_GRANT.finditer(read_sql("grants.sql"))
        for name in re.split(r",\s+", grant[2])
        for privilege in grant[1].split(", ")
    )


@cache
def migrations() -> tuple[Migration, ...]:
    """Return all migrations, in order."""
    folder = files("jobs_grpc.db").joinpath("sql/migrations")
    found = [
        Migration(int(match[1]), match[2], path.read_text(encoding="utf-8"))
        for path in folder.iterdir()
        if (match := _MIGRATION.fullmatch(path.name))
    ]
    return tuple(sorted(found, key=lambda migration: migration.version))


@cache
def code() -> Mapping[str, str]:
    """Return the SQL of each view and function by name, in the order in which to create them."""
    root = files("jobs_grpc.db").joinpath("sql")
    code = {
        path.name.removesuffix(".sql"): with_settings(
            with_contract(path.read_text(encoding="utf-8")), is_entry=folder in _ENTRY_FOLDERS
        )
        for folder in _CODE_FOLDERS
        for path in root.joinpath(folder).iterdir()
        if path.name.endswith(".sql")
    }
    return {name: code[name] for name in order_by_dependency(code)}


@cache
def delegated_functions() -> tuple[str, ...]:
    """Return the names of the functions that Citus runs on the node of their tenant.

    They are those of api/, except the statements for many tenants.
    """
    folder = files("jobs_grpc.db").joinpath("sql/functions/api")
    names = sorted(path.name.removesuffix(".sql") for path in folder.iterdir())
    return tuple(name for name in names if not name.endswith("_of_tenants"))


def order_by_dependency(code: Mapping[str, str]) -> list[str]:
    """Sort the names so that each follows the other views and functions that its SQL names.

    Views, SQL-standard function bodies, and the types of parameters, variables and results need
    these to exist. Raises SchemaError if the files form a cycle.
    """
    used = {
        name: sorted({*_NAME.findall(_COMMENT.sub("", sql))} & code.keys() - {name})
        for name, sql in sorted(code.items())
    }
    try:
        return list(TopologicalSorter(used).static_order())
    except CycleError as e:
        cycle = " -> ".join(reversed(e.args[1]))
        raise SchemaError(f"SQL files name each other in a cycle: {cycle}") from None


@cache
def code_checksum() -> str:
    """Return a checksum of this version's set of views and functions."""
    return _checksum("".join(code().values()))


# Cached, because the readiness check compares the checksums every second.
@cache
def _checksum(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
