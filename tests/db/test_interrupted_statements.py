"""Statements that a migration interrupts are repeated, so that no call fails."""

import re
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest

from jobs_grpc.db import schema
from jobs_grpc.db.interrupted_statements import fetch_with_repeats
from tests.support.database import Database, cancel_job_runs
from tests.support.postgres import connected
from tests.support.server import Server, running_server


@pytest.fixture
async def migrating(fresh: Database) -> AsyncIterator[asyncpg.Connection]:
    async with connected(fresh.owner_dsn) as connection:
        yield connection


@pytest.fixture
async def server(fresh: Database) -> AsyncIterator[Server]:
    """A server of the test's own database, which has a job "j" for one device."""
    # A call notices a deadlock after this time. Before, the migration must have begun to wait for
    # the call, also on a busy machine.
    role = fresh.role.name
    await fresh.owner.execute(f"ALTER ROLE {role} SET deadlock_timeout = '3s'")
    async with running_server(fresh.request_dsn) as server:
        await fresh.add_devices("t", ["pump"])
        await server.operator("t").create(job_id="j", target_all=True)
        yield server


@pytest.mark.slow
async def test_call_succeeds_when_a_view_that_it_waits_for_gets_a_column(
    fresh: Database, server: Server, migrating: asyncpg.Connection
) -> None:
    device = server.device("t", "pump")
    await device.get("j")
    view = schema.code()["execution_states"]
    sql, count = re.subn(r"\nFROM ", ",\n    1 AS added\nFROM ", view, count=1)
    assert count

    async with migrating.transaction():
        await migrating.execute(sql)
        call = await fresh.blocked(device.get("j"))

    assert (await call).job_id == "j"


@pytest.mark.slow
@pytest.mark.single_node("on Citus, the nodes lack the function and the table")
async def test_call_succeeds_when_a_function_is_dropped_while_its_statement_is_analyzed(
    fresh: Database, server: Server, migrating: asyncpg.Connection
) -> None:
    """If the session kept its plans, it would never find the new function."""
    create_function = "CREATE FUNCTION public.ten() RETURNS integer LANGUAGE plpgsql"
    create_function += " AS 'BEGIN RETURN 10; END'"
    await migrating.execute("CREATE TABLE public.locked (); GRANT SELECT ON locked TO PUBLIC")
    await migrating.execute(create_function)

    async with cancel_job_runs(fresh, "PERFORM FROM public.ten(), public.locked"):
        async with migrating.transaction():
            await migrating.execute("LOCK public.locked")
            # The call looks up the function before it waits for the table.
            call = await fresh.blocked(server.operator("t").cancel("j"))
            await migrating.execute("DROP FUNCTION public.ten()")
            await migrating.execute(create_function)
        await call


@pytest.mark.slow
@pytest.mark.single_node("Citus chooses which transaction of a deadlock ends")
async def test_call_succeeds_when_it_deadlocks_with_a_migration(
    fresh: Database, server: Server, migrating: asyncpg.Connection
) -> None:
    # PostgreSQL ends the session that notices the deadlock: the one of the call.
    await migrating.execute("SET deadlock_timeout = '1min'")

    async with migrating.transaction():
        await migrating.execute("LOCK jobs.job_executions")
        call = await fresh.blocked(server.device("t", "pump").update("j", "SUCCEEDED"))
        await migrating.execute("LOCK jobs.job_progress")

    await call
    assert (await server.operator("t").get("j")).succeeded_count == 1


async def test_repeats_of_a_statement_share_its_timeout() -> None:
    timeouts: list[float] = []

    class Interrupted:
        """A connection whose statements a migration interrupts each time."""

        async def fetch(self, sql: str, *args: object, **options: float) -> None:
            timeouts.append(options["timeout"])
            raise asyncpg.DeadlockDetectedError

        async def execute(self, sql: str, **options: float) -> None:
            assert options["timeout"] < timeouts[-1]

    connection: Any = Interrupted()
    with pytest.raises(asyncpg.DeadlockDetectedError):
        await fetch_with_repeats(connection, 60, "SELECT 1")

    assert len(timeouts) == 4
    assert 60 > timeouts[0] > timeouts[1] > timeouts[2] > timeouts[3]
