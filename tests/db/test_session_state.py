"""Calls leave no state in their session, because connections are not reset between uses."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest
from fleet.jobs.v1 import jobs_pb2 as pb
from grpc import StatusCode

from jobs_grpc.config import Config
from jobs_grpc.db.database import Database as ServiceDatabase
from tests.support.callers import Operator
from tests.support.database import Database
from tests.support.failures import expect_error, expect_failure
from tests.support.server import running_server

SESSION_STATE = {
    # asyncpg turns jit off and on again when it looks up types.
    "settings": "SELECT name, setting FROM pg_settings"
    " WHERE source = 'session' AND setting IS DISTINCT FROM reset_val",
    "the tenant": "SELECT current_setting('app.tenant_id', true)"
    " WHERE coalesce(current_setting('app.tenant_id', true), '') <> ''",
    "another role": "SELECT current_user WHERE current_user <> session_user",
    "temporary tables": "SELECT relname FROM pg_class WHERE relnamespace = pg_my_temp_schema()",
    "advisory locks": "SELECT * FROM pg_locks"
    " WHERE locktype = 'advisory' AND pid = pg_backend_pid()",
    "prepared transactions": "SELECT gid FROM pg_prepared_xacts"
    " WHERE database = current_database()",
    "SQL-level prepared statements": "SELECT name FROM pg_prepared_statements WHERE from_sql",
    "open cursors": "SELECT name FROM pg_cursors WHERE is_holdable",
    "listening": "SELECT pg_listening_channels()",
}


@dataclass(frozen=True)
class UsedServer:
    """A server with one connection, and access to that connection."""

    pool: ServiceDatabase
    operator: Operator


@asynccontextmanager
async def server_with_one_connection(database: Database, tenant: str) -> AsyncIterator[UsedServer]:
    """Run a server whose calls all use the same connection."""
    opened: list[ServiceDatabase] = []

    class ExposedDatabase(ServiceDatabase):
        def __init__(self, config: Config) -> None:
            super().__init__(config)
            opened.append(self)

    pool_of_one = {"JOBS_POOL_MIN_SIZE": "1", "JOBS_POOL_MAX_SIZE": "1"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("jobs_grpc.server.app.Database", ExposedDatabase)
        async with running_server(database.request_dsn, **pool_of_one) as server:
            yield UsedServer(opened[0], server.operator(tenant, user="olivia"))


@pytest.fixture(scope="module")
async def used(database: Database) -> AsyncIterator[UsedServer]:
    """A server that has run calls that succeed and calls that fail."""
    async with server_with_one_connection(database, "tenant") as used:
        await database.add_devices("tenant", 3, group="group")
        await _make_calls(used.operator)
        yield used


async def _make_calls(operator: Operator) -> None:
    await operator.create(job_id="a", target_all=True)
    await operator.create(job_id="b", target_group_id="group", never_expires=True)
    await operator.create(target_device_id="d00001")
    await operator.list(status=pb.Job.IN_PROGRESS, limit=1)
    await operator.get("a")
    await operator.executions("a", limit=1)
    await operator.cancel("a", reason="enough")
    for expected, call in (
        ("JOB_NOT_CANCELABLE", operator.cancel("a")),
        ("GROUP_EMPTY", operator.create(target_group_id="nobody")),
    ):
        with expect_failure(StatusCode.FAILED_PRECONDITION, expected):
            await call
    await expect_error("JOB_ALREADY_EXISTS", operator.create(job_id="a", target_device_id="d00001"))
    await expect_error("JOB_NOT_FOUND", operator.get("nowhere"))


@pytest.mark.parametrize("query", SESSION_STATE.values(), ids=SESSION_STATE)
async def test_calls_leave_no_session_state(used: UsedServer, query: str) -> None:
    sql = f"SELECT * FROM ({query}) session_state WHERE $1 <> ''"

    assert not [tuple(row) for row in await used.pool.fetch(sql, "any")]


@pytest.mark.single_node("on Citus, such a statement fails")
async def test_statement_without_tenant_sees_no_rows_after_a_call(used: UsedServer) -> None:
    await used.operator.list()

    assert not await used.pool.fetch("SELECT FROM jobs.jobs WHERE $1 <> ''", "any")


async def test_error_names_the_setting_when_a_pooler_loses_prepared_statements(
    fresh: Database, tenant: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Deallocating them acts like a pooler that switches to another session."""
    await fresh.owner.execute(
        "CREATE FUNCTION public.deallocate(tenant text) RETURNS void LANGUAGE plpgsql"
        " AS $$ BEGIN EXECUTE 'DEALLOCATE ALL'; END $$"
    )
    async with server_with_one_connection(fresh, tenant) as used:
        await used.operator.list()
        await used.pool.fetch("SELECT public.deallocate($1)", "any")

        await expect_error("DATABASE_UNAVAILABLE", used.operator.list())

    assert "set JOBS_STATEMENT_CACHE_SIZE=0" in caplog.text
