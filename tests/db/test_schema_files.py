"""The files of views and functions: their order, their names and the errors they raise."""

import json
import re

import pytest

from jobs_grpc.db import schema
from jobs_grpc.db.index_migrations import index_statements
from jobs_grpc.db.schema import Migration, SchemaError, order_by_dependency
from jobs_grpc.db.sqlstates import domain_error
from jobs_grpc.errors import BY_SQLSTATE


def test_order_puts_each_file_after_those_that_it_names() -> None:
    code = {
        "a_view": "CREATE VIEW jobs.a_view AS SELECT jobs.status_at(1) FROM jobs.details",
        "details": "CREATE VIEW jobs.details",
        "status_at": "-- See jobs.a_view.\nCREATE FUNCTION jobs.status_at() AS 'jobs.z_status()'",
        "z_status": "CREATE FUNCTION jobs.z_status() -- then jobs.status_at",
    }

    assert order_by_dependency(code) == ["details", "z_status", "status_at", "a_view"]


def test_order_fails_when_files_name_each_other_in_a_cycle() -> None:
    code = {"a": "jobs.b()", "b": "jobs.c()", "c": "jobs.a()"}

    with pytest.raises(SchemaError, match="cycle: a -> b -> c -> a"):
        order_by_dependency(code)


@pytest.mark.parametrize("migration", schema.migrations(), ids=lambda migration: migration.name)
def test_migration_locks_no_existing_table_to_build_an_index(migration: Migration) -> None:
    if not migration.in_transaction:
        assert index_statements(migration)
        return
    sql = re.sub(r"--.*", "", migration.sql)
    new_tables = set(re.findall(r"CREATE TABLE (\S+)", sql))

    assert (
        set(re.findall(r"CREATE (?:UNIQUE )?INDEX\s+.*?\bON\s+(\S+)", sql, re.DOTALL)) <= new_tables
    )
    assert "DROP INDEX" not in sql


@pytest.mark.parametrize("migration", schema.migrations(), ids=lambda migration: migration.name)
def test_migration_locks_at_most_one_existing_table(migration: Migration) -> None:
    """Calls lock these tables in several orders, so a lock on two can end in a deadlock."""
    sql = re.sub(r"--.*", "", migration.sql)
    new_tables = set(re.findall(r"CREATE TABLE (\S+)", sql))

    assert len(set(re.findall(r"(?:ALTER|DROP) TABLE (\S+)", sql)) - new_tables) <= 1


@pytest.mark.parametrize("name", schema.code())
def test_file_creates_the_object_of_its_name(name: str) -> None:
    created = re.findall(r"CREATE OR REPLACE (?:FUNCTION|VIEW) (\S+?)[( ]", _sql(name))

    assert created == [f"jobs.{name}"]


@pytest.mark.parametrize("name", schema.code())
def test_file_raises_only_errors_of_raise_error(name: str) -> None:
    sql = _sql(name)

    raised = {error_type.upper_name() for error_type in BY_SQLSTATE.values()}
    assert set(re.findall(r"raise_error\(\s*'(\w+)'", sql)) <= raised
    assert name == "raise_error" or "RAISE " not in sql


def test_each_sqlstate_becomes_its_exception() -> None:
    """With only the facts that the SQL of each error sends."""
    args = {"tenant_id": "t", "job_id": "j", "device_id": "d", "max_targets": 1}
    args |= {"max_active_jobs": 1, "webhook_id": "w", "max_devices": 1}
    stages = {"status": "CANCELED", "open_stage": 0}
    facts: dict[str, dict[str, object]] = {
        "JB002": {"group_id": "g"},
        "JB004": {"deleted": True},
        "JB016": stages | {"etag": "1"},
        "JB020": stages | {"cause": "FINISHED"},
        "JB022": {"stage": 1, "open_stage": 0, "last_stage": 1, "is_started": True},
        "JB023": {"changes_start": False},
        "JB024": {"problem": "must not change"},
        "JB026": {"group_id": "g", "selector": None},
        "JB031": {"device_ids": ["d"], "count": 1},
        "JB034": {"failed_in": None, "selector": "a=b"},
        "JB035": {"device_count": "1", "expected_count": "2"},
        "JB027": {
            "seconds": 2,
            "seconds_left": 1,
            "stages": [],
            "stage_count": 0,
            "is_scheduled": False,
        },
        "JB039": {"position": 1, "purged_position": 2},
        "JB040": {"position": 2, "last_position": 1},
    }

    assert sorted(BY_SQLSTATE) == [f"JB{number:03}" for number in range(1, len(BY_SQLSTATE) + 1)]
    for sqlstate, error_type in BY_SQLSTATE.items():
        hint = json.dumps(facts[sqlstate]) if sqlstate in facts else ""
        assert type(domain_error(sqlstate, args, "0", hint)) is error_type
    assert domain_error("JB000", args, "") is None
    assert domain_error("42883", args, "", "You might need to add explicit type casts.") is None


def _sql(name: str) -> str:
    """Return the SQL of a file without comments."""
    return re.sub(r"--.*", "", schema.code()[name])
