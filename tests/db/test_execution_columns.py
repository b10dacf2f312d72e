"""The columns of executions, which SQL files take from the contract."""

import pytest

from jobs_grpc.db.execution_columns import REPORTED, with_columns
from tests.support.database import Database

_TYPES = """
    SELECT a.attname AS name, format_type(a.atttypid, NULL) AS type
    FROM pg_attribute a
    WHERE a.attrelid = ('jobs.' || $1)::regclass AND a.attnum > 0 AND NOT a.attisdropped
    ORDER BY a.attnum
"""


async def _columns(database: Database, relation: str) -> dict[str, str]:
    return {row["name"]: row["type"] for row in await database.owner.fetch(_TYPES, relation)}


def test_list_has_an_element_for_each_field() -> None:
    sql = "SELECT /* for each frequent FIELD: e.FIELD AS FIELDs */, /* a comment */ e.rank"

    assert with_columns(sql) == (
        "SELECT e.queued_at AS queued_ats, e.started_at AS started_ats, e.last_updated_at AS"
        " last_updated_ats, e.execution_number AS execution_numbers, e.version AS versions,"
        " /* a comment */ e.rank"
    )


def test_list_of_an_unknown_set_fails() -> None:
    with pytest.raises(KeyError, match="late"):
        with_columns("/* for each late FIELD: FIELD */")


async def test_reported_fields_are_stored_and_passed_on(database: Database) -> None:
    """A ROW in execution_change.sql relies on the order of the attributes of the type."""
    for table in ("job_executions", "execution_attempts"):
        assert {*REPORTED} <= {*await _columns(database, table)}
    change = [*await _columns(database, "execution_change")]
    assert tuple(change[-len(REPORTED) :]) == REPORTED
