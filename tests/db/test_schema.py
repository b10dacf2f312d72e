"""The migrated schema equals the reviewed one, tests/db/schema.sql.

The dump holds types, tables, indexes, policies and views. Functions are reviewed in their own
files, in jobs_grpc/db/sql/functions.
"""

import asyncio
import difflib
import os
import re
from pathlib import Path

import pytest

from tests.support.database import Database
from tests.support.postgres import pg_program

REVIEWED = Path(__file__).with_name("schema.sql")

# pg_dump starts each object with a comment that names its type.
_OBJECT = re.compile(r"^-- Name: .*; Type: ([A-Z ]+); Schema: .*$", re.MULTILINE)

# Comments and session settings of pg_dump.
_NOISE = re.compile(r"(--|SET |SELECT pg_catalog\.set_config|\\restrict|\\unrestrict).*")


@pytest.mark.single_node("the dump is of tables that are not distributed")
async def test_migrated_schema_equals_the_reviewed_dump(database: Database) -> None:
    schema = _normalize(await _dump(database.owner_dsn))
    if os.environ.get("UPDATE_SCHEMA"):
        REVIEWED.write_text(schema, encoding="utf-8")
    reviewed = REVIEWED.read_text(encoding="utf-8")
    if database.owner.get_server_version().major < 16:
        reviewed, schema = _unqualified(reviewed), _unqualified(schema)

    difference = difflib.unified_diff(
        reviewed.splitlines(),
        schema.splitlines(),
        "tests/db/schema.sql",
        "as migrated",
        lineterm="",
    )
    if text := "\n".join(difference):
        pytest.fail(
            f"{text}\n\nIf this change is intended, run UPDATE_SCHEMA=1 pytest tests/db/"
            f"{Path(__file__).name} and review the new tests/db/schema.sql",
            pytrace=False,
        )


def test_reviewed_dump_holds_views_but_no_functions() -> None:
    reviewed = REVIEWED.read_text(encoding="utf-8")

    for kind in ("TYPE", "TABLE", "INDEX", "POLICY", "VIEW"):
        assert f"CREATE {kind} " in reviewed
    assert "FUNCTION" not in reviewed


async def _dump(dsn: str) -> str:
    process = await asyncio.create_subprocess_exec(
        *(pg_program("pg_dump"), "--schema-only", "--no-owner", "--no-privileges", dsn),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    dump, problem = await process.communicate()
    assert process.returncode == 0, problem.decode()
    return dump.decode()


def _normalize(dump: str) -> str:
    """Remove functions, comments and session settings."""
    _, *rest = _OBJECT.split(dump)
    objects = zip(rest[::2], rest[1::2], strict=True)
    kept = "".join(sql for kind, sql in objects if kind != "FUNCTION")
    lines = (line.rstrip() for line in kept.splitlines() if not _NOISE.fullmatch(line))
    return re.sub(r"\n{2,}", "\n\n", "\n".join(lines)).strip() + "\n"


def _unqualified(schema: str) -> str:
    """Remove the alias from `alias.column`.

    For a view of one table, PostgreSQL 15 writes the alias, and later versions do not.
    """
    return re.sub(r"\b[a-z]\.(?=[a-z])", "", schema)
