"""The migrated schema equals the reviewed one, tests/db/schema.sql.

The dump holds types, tables, indexes, policies and views. Functions are reviewed in their own
files, in jobs_grpc/db/sql/functions.
"""

import difflib
import os
import re
from pathlib import Path

import pytest

from tests.support.database import Database
from tests.support.schema_dump import dump_schema

REVIEWED = Path(__file__).with_name("schema.sql")


@pytest.mark.single_node("the dump is of tables that are not distributed")
async def test_migrated_schema_equals_the_reviewed_dump(database: Database) -> None:
    schema = await dump_schema(database.owner_dsn)
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


def _unqualified(schema: str) -> str:
    """Remove the alias from `alias.column`.

    For a view of one table, PostgreSQL 15 writes the alias, and later versions do not.
    """
    return re.sub(r"\b[a-z]\.(?=[a-z])", "", schema)
