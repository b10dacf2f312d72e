"""Functions give the same results whatever the session's search_path contains."""

import re
from datetime import datetime
from importlib.resources import files

import asyncpg
import pytest

from tests.support.database import Database

_API = files("jobs_grpc.db").joinpath("sql/functions/api")
FUNCTIONS = sorted(path.name.removesuffix(".sql") for path in _API.iterdir())

# Operators and functions that the bodies of our functions use. Each fails if it is called.
_HOSTILE_SCHEMA = """
    CREATE SCHEMA hostile;
    CREATE FUNCTION hostile.compare(text, text) RETURNS boolean
        LANGUAGE plpgsql AS $$ BEGIN RAISE 'hostile operator'; END $$;
    CREATE FUNCTION hostile.compare(jobs.execution_status, jobs.execution_status) RETURNS boolean
        LANGUAGE plpgsql AS $$ BEGIN RAISE 'hostile operator'; END $$;
    CREATE FUNCTION hostile.compare(integer, integer) RETURNS boolean
        LANGUAGE plpgsql AS $$ BEGIN RAISE 'hostile operator'; END $$;
    CREATE OPERATOR hostile.= (LEFTARG = text, RIGHTARG = text, FUNCTION = hostile.compare);
    CREATE OPERATOR hostile.= (LEFTARG = jobs.execution_status, RIGHTARG = jobs.execution_status,
                               FUNCTION = hostile.compare);
    CREATE OPERATOR hostile.> (LEFTARG = integer, RIGHTARG = integer, FUNCTION = hostile.compare);
    CREATE FUNCTION hostile.set_config(text, text, boolean) RETURNS text
        LANGUAGE plpgsql AS $$ BEGIN RAISE 'hostile function'; END $$;
    CREATE FUNCTION hostile.clock_timestamp() RETURNS timestamptz
        LANGUAGE plpgsql AS $$ BEGIN RAISE 'hostile function'; END $$;
"""

_CREATE = """create_job(
    'acme', '%s', '{"document_type": "x", "target_all": true%s}', '{}', NULL, 10, 10, 24
)"""
# The first stage needs an approval, the second one only time.
_STAGES = """{"stages": [
    {"display_name": "", "device_count": 1, "require_approval": true},
    {"display_name": "", "device_count": 1, "advance_after_seconds": 60},
    {"display_name": ""}
]}"""
_CRITERIA = """[{
    "statuses": ["FAILED"], "failure_codes": [], "count": 1, "basis": "FINISHED",
    "min_finished": 0, "scope": "STAGE", "action": "PAUSE"
}]"""
_UPDATE = (
    "update_executions('acme', 1000, ARRAY['j'], '{false}', ARRAY['d00001'], '{%s}', '{NULL}',"
    " '{NULL}', '{NULL}', '{NULL}', '{true}')"
)

CALLS = [
    _CREATE % ("j", ', "in_progress_timeout_minutes": 5'),
    _CREATE % ("k", ""),
    _CREATE % ("s", f', "rollout": {_STAGES}, "failure_criteria": {_CRITERIA}'),
    f"update_job('acme', 's', '', '{{failure_criteria}}', NULL, NULL, '{_CRITERIA}')",
    "approve_stage('acme', 's', 0, 'maria', '')",
    "advance_job('acme', 's', NULL, '')",
    "open_due_stage('acme', 's', 0)",
    _UPDATE % "NULL",
    _UPDATE % "FAILED",
    "get_failure_summary('acme', 'j', '{FAILED}', ARRAY[''])",
    "get_execution('acme', 'd00001', 'j')",
    "list_pending_executions('acme', 'd00002', 'QUEUED', '2000-01-01', 'a', 10)",
    "changed_pending_fingerprints('acme', ARRAY['d00002'], '{11}', '{1}')",
    "changed_pending_fingerprints_of_tenants('{acme}', ARRAY['d00002'], '{11}', '{1}')",
    "changed_job_fingerprints('acme', '{j1}', '{1}')",
    "changed_job_fingerprints_of_tenants('{acme}', '{j1}', '{1}')",
    "list_watched_executions('acme', ARRAY['d00002'], ARRAY[10], 1000)",
    "cancel_execution('acme', 'j', 'd00002', 'r', false)",
    "retry_executions('acme', 'j', '{FAILED}', 24, false, 10, '{E1}', '{d00001}')",
    "retry_executions('acme', 'j', '{FAILED}', 24, false, 10)",
    "list_execution_attempts('acme', 'j', 'd00001', NULL, 10)",
    "list_job_executions('acme', 'j', 'QUEUED', '', 10)",
    "list_device_executions('acme', 'd00001', NULL, NULL, NULL, NULL, 10)",
    _UPDATE % "NULL",
    "time_out_executions('acme', 'j', ARRAY['d00001'], 0)",
    "get_job('acme', 'j', 10)",
    "get_jobs('acme', ARRAY['j', 'k'])",
    "list_jobs('acme', '{IN_PROGRESS}', NULL, NULL, 10, 0)",
    "pause_job('acme', 'k', 'r', NULL, '')",
    "resume_job('acme', 'k', '')",
    "cancel_job('acme', 'k', 'r', true)",
    "finalize_executions('acme', 'k', '', 10, 1000)",
    "delete_job('acme', 'k')",
    "apply_retention('acme', 'j', 0, 0)",
    "purge_job('acme', 'j', '', 10, 0)",
    "get_job('acme', 'j', 10)",
]


async def _run(owner: asyncpg.Connection, search_path: str) -> list[list[dict[str, object]]]:
    """Return the rows of all calls, without times and their hashes. The calls are rolled back."""
    results: list[list[dict[str, object]]] = []
    transaction = owner.transaction()
    await transaction.start()
    try:
        await owner.execute(f"SET LOCAL search_path = {search_path}")
        for call in CALLS:
            if call.startswith("time_out"):
                await owner.execute("UPDATE jobs.job_executions SET times_out_at = '2000-01-01'")
            if call.startswith("open_due"):
                await owner.execute("UPDATE jobs.job_stages SET active_since = '2000-01-01'")
                await owner.execute("UPDATE jobs.jobs SET stage_due_at = '2000-01-01'")
            try:
                async with owner.transaction():
                    rows = await owner.fetch(f"SELECT * FROM jobs.{call}")
            except asyncpg.PostgresError as e:
                results.append([{"sqlstate": e.sqlstate}])
            else:
                results.append([_without_times(row) for row in rows])
    finally:
        await transaction.rollback()
    return results


def _without_times(row: asyncpg.Record) -> dict[str, object]:
    return {
        # In JSON, times are numbers of microseconds.
        column: re.sub(r"\d{15}", "", value) if isinstance(value, str) else value
        for column, value in row.items()
        if column != "fingerprint"
        and not isinstance(value[0] if isinstance(value, list) and value else value, datetime)
    }


@pytest.mark.single_node("a call inside a transaction is not delegated on Citus")
async def test_functions_ignore_the_search_path_of_the_session(database: Database) -> None:
    await database.add_devices("acme", 2)
    await database.owner.execute(_HOSTILE_SCHEMA)

    expected = await _run(database.owner, "DEFAULT")
    actual = await _run(database.owner, "hostile, pg_catalog")

    assert actual == expected
    # Each call returns rows. The last one fails, because the job is deleted by then.
    assert all(rows and "sqlstate" not in rows[0] for rows in expected[:-1])
    assert expected[-1] == [{"sqlstate": "JB005"}]
    assert {call.partition("(")[0] for call in CALLS} == set(FUNCTIONS)
