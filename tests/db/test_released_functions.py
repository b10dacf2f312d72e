"""Servers of the released version can call this version's functions.

released_functions.json has the functions of the released version: the names and types of their
parameters, which servers pass by name, and of their result columns. A release writes it (see
CONTRIBUTING.md).
"""

import json
import os
from collections.abc import Collection
from pathlib import Path
from typing import Any

import asyncpg
import pytest

import jobs_grpc.db
from tests.support.database import Database

_FILE = Path(__file__).with_name("released_functions.json")
_FOLDER = Path(jobs_grpc.db.__file__).parent / "sql/functions"


def _released() -> list[dict[str, Any]]:
    functions: list[dict[str, Any]] = json.loads(_FILE.read_text(encoding="utf-8"))
    return functions


async def _describe(
    connection: asyncpg.Connection, name: str, parameters: Collection[str]
) -> dict[str, Any]:
    """Describe a function as the statement of a server sees it."""
    values = ", ".join(f"{parameter} => ${n}" for n, parameter in enumerate(parameters, 1))
    statement = await connection.prepare(f"SELECT * FROM jobs.{name}({values})")
    types = (parameter.name for parameter in statement.get_parameters())
    return {
        "name": name,
        "parameters": dict(zip(parameters, types, strict=True)),
        "columns": {column.name: column.type.name for column in statement.get_attributes()},
    }


async def _text(database: Database) -> str:
    """Return what the file has if this version is the released one."""
    names = [path.stem for path in _FOLDER.glob("*/*.sql") if path.parent.name != "internal"]
    rows = await database.owner.fetch(
        "SELECT proname, proargnames[:pronargs] AS parameters FROM pg_proc"
        " WHERE pronamespace = 'jobs'::regnamespace AND proname = ANY ($1)"
        " ORDER BY proname, pronargs",
        names,
    )
    functions = [
        await _describe(database.owner, row["proname"], row["parameters"] or ()) for row in rows
    ]
    lines = ",\n".join(json.dumps(function) for function in functions)
    return f"[\n{lines}\n]\n"


@pytest.mark.skipif("UPDATE_RELEASED" not in os.environ, reason="only a release writes the file")
async def test_release_writes_its_functions(database: Database) -> None:
    _FILE.write_text(await _text(database), encoding="utf-8")


@pytest.mark.skipif("CHECK_RELEASED" not in os.environ, reason="make release runs this")
async def test_release_has_written_its_functions(database: Database) -> None:
    assert _FILE.read_text(encoding="utf-8") == await _text(database), (
        "run UPDATE_RELEASED=1 make test ARGS=tests/db/test_released_functions.py"
    )


@pytest.mark.parametrize("released", _released(), ids=lambda released: released["name"])
async def test_function_still_has_the_parameters_and_columns_of_the_release(
    database: Database, released: dict[str, Any]
) -> None:
    current = await _describe(database.owner, released["name"], released["parameters"])

    assert current["parameters"] == released["parameters"]
    assert released["columns"].items() <= current["columns"].items()
