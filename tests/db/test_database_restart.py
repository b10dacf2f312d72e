"""Sessions that the database ends under the server: UNAVAILABLE at most, then all is well."""

import asyncio

from grpc import StatusCode

from jobs_grpc.db.migrate import RequestRole
from tests.support.callers import Operator
from tests.support.database import Database, job_lock_held
from tests.support.failures import expect_failure
from tests.support.server import wait_until_list_succeeds

MESSAGE = "The database is unavailable; retry later"


async def _terminate_all(database: Database) -> int:
    """End every session of the request role; how many there were."""
    ended: int = await database.owner.fetchval(
        "SELECT count(pg_terminate_backend(pid, 5000)) FROM pg_stat_activity WHERE usename = $1"
        " AND datname = current_database()",
        RequestRole.of_dsn(database.request_dsn).name,
    )
    return ended


async def test_idle_sessions_that_were_ended_are_replaced(
    database: Database, operator: Operator
) -> None:
    await operator.list()

    assert await _terminate_all(database) > 0

    await wait_until_list_succeeds(operator)


async def test_calls_go_on_while_sessions_are_ended(database: Database, operator: Operator) -> None:
    async def call_often() -> None:
        for _ in range(50):
            await wait_until_list_succeeds(operator)

    callers = [asyncio.create_task(call_often()) for _ in range(5)]
    while not all(caller.done() for caller in callers):
        await _terminate_all(database)
    await asyncio.gather(*callers)
    await wait_until_list_succeeds(operator)


async def test_a_call_whose_session_is_ended_is_unavailable_and_undone(
    database: Database, operator: Operator
) -> None:
    await database.add_devices(operator.tenant, 1)
    await operator.create(job_id="a", target_all=True)
    async with job_lock_held(database, operator.tenant, "a"):
        call = asyncio.create_task(operator.cancel("a"))
        await database.wait_for_blocked_sessions(1)

        await _terminate_all(database)

        with expect_failure(StatusCode.UNAVAILABLE, "DATABASE_UNAVAILABLE") as failure:
            await call
        assert failure.message == MESSAGE
        assert failure.metadata == {}

    await wait_until_list_succeeds(operator)
    await operator.cancel("a")


async def test_a_statement_that_an_administrator_cancels_is_unavailable(
    database: Database, operator: Operator
) -> None:
    await database.add_devices(operator.tenant, 1)
    await operator.create(job_id="a", target_all=True)
    async with job_lock_held(database, operator.tenant, "a"):
        call = asyncio.create_task(operator.cancel("a"))
        await database.wait_for_blocked_sessions(1)

        await database.owner.execute(
            "SELECT pg_cancel_backend(pid) FROM pg_stat_activity"
            " WHERE wait_event_type = 'Lock' AND datname = current_database()"
        )

        with expect_failure(StatusCode.UNAVAILABLE, "DATABASE_UNAVAILABLE") as failure:
            await call
        assert failure.message == MESSAGE
