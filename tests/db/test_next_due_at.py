"""When the first waiting execution of a device is due: how much of a long queue is examined."""

from datetime import UTC, datetime, timedelta

import pytest

from jobs_grpc.db.store import ExecutionUpdate
from tests.support.callers import Operator
from tests.support.database import Database, store_on
from tests.support.windows import set_time, set_windows

pytestmark = pytest.mark.single_node("counts the calls of functions in one session")

# A Monday at 12:00 in UTC.
NOON = datetime(2027, 6, 7, 12, tzinfo=UTC)

_CALLS = "SELECT coalesce(pg_stat_get_xact_function_calls('jobs.next_openings'::regproc), 0)"

# Copies of the job "j", each with other windows, or with the same ones, and of its execution.
_COPIES = (
    "INSERT INTO jobs.jobs SELECT (jsonb_populate_record(j, jsonb_build_object("
    " 'job_id', 'j' || n, 'start_windows', start_windows || ARRAY[2, n % $3, 1]))).*"
    " FROM jobs.jobs j, generate_series(1, $2) n WHERE tenant_id = $1",
    "INSERT INTO jobs.job_progress SELECT (jsonb_populate_record(p, jsonb_build_object("
    " 'job_id', 'j' || n))).*"
    " FROM jobs.job_progress p, generate_series(1, $2) n WHERE tenant_id = $1 AND $3 > 0",
    "INSERT INTO jobs.job_executions SELECT (jsonb_populate_record(e, jsonb_build_object("
    " 'job_id', 'j' || n, 'queued_at', queued_at + make_interval(secs => n),"
    " 'not_before', jobs.now() + make_interval(days => (n / 2) % 2 * 28)))).*"
    " FROM jobs.job_executions e, generate_series(1, $2) n WHERE tenant_id = $1 AND $3 > 0",
)


async def _openings(
    database: Database, operator: Operator, *, jobs: int, kinds: int
) -> tuple[timedelta, int]:
    """When the device of that many waiting jobs polls again, and how many openings were computed.

    The jobs have so many kinds of windows.
    """
    tenant = operator.tenant
    await set_time(database, NOON)
    await database.add_devices(tenant, ["pump"])
    await operator.create(job_id="j", target_all=True, never_expires=True)
    # 13 windows on Wednesday; that of the copies is on Tuesday.
    windows = [number for hour in range(13) for number in (4, hour * 60, 30)]
    await set_windows(database, tenant, "j", windows, "UTC")
    connection = database.owner
    async with connection.transaction():
        for statement in _COPIES:
            await connection.execute(statement, tenant, jobs - 1, kinds)
        await connection.execute("SET LOCAL track_functions = 'pl'")
        before = await connection.fetchval(_CALLS)
        updates = [ExecutionUpdate(None, "pump", None, must_be_next=True)]
        [row] = await store_on(connection).update_executions(tenant, updates, wait_ms=1000)
        calls = await connection.fetchval(_CALLS) - before
    assert row["outcome"] == "NONE"
    return row["due_at"] - row["last_updated_at"], calls


async def test_opening_is_computed_once_for_each_kind_of_windows(
    database: Database, operator: Operator
) -> None:
    wait, openings = await _openings(database, operator, jobs=300, kinds=2)

    assert openings == 3  # "j" has windows of its own
    assert timedelta(hours=12) <= wait < timedelta(hours=12, minutes=2)


async def test_at_most_100_waiting_executions_are_examined(
    database: Database, operator: Operator
) -> None:
    _, openings = await _openings(database, operator, jobs=150, kinds=1000)

    assert openings == 100
