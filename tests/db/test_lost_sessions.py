"""When sessions are terminated, a call may fail with UNAVAILABLE, and later calls succeed."""

import asyncio

import pytest

from tests.support.callers import Operator
from tests.support.database import Database, job_lock_held
from tests.support.failures import expect_error
from tests.support.server import wait_until_list_succeeds
from tests.support.world import World

MESSAGE = "The database is unavailable; retry later"


async def test_idle_sessions_are_replaced_when_terminated(world: World) -> None:
    await world.operator.list()

    assert await world.database.terminate_request_sessions() > 0

    await wait_until_list_succeeds(world.operator)


@pytest.mark.slow
async def test_calls_succeed_on_retry_while_sessions_are_terminated(world: World) -> None:
    async def call_repeatedly() -> None:
        for _ in range(20):
            await wait_until_list_succeeds(world.operator)

    callers = [asyncio.create_task(call_repeatedly()) for _ in range(5)]
    pause = 0.05
    while not all(caller.done() for caller in callers):
        await world.database.terminate_request_sessions()
        await asyncio.sleep(pause)
        pause *= 1.05  # A connection takes longer on a busy machine.
    await asyncio.gather(*callers)
    await wait_until_list_succeeds(world.operator)


async def test_call_is_unavailable_and_rolled_back_when_its_session_is_terminated(
    database: Database, operator: Operator
) -> None:
    await database.add_devices(operator.tenant, 1)
    await operator.create(job_id="a", target_all=True)
    async with job_lock_held(database, operator.tenant, "a"):
        call = await database.blocked(operator.cancel("a"))

        await database.terminate_request_sessions()

        failure = await expect_error("DATABASE_UNAVAILABLE", call)
        assert failure.message == MESSAGE
        assert failure.metadata == {}

    await wait_until_list_succeeds(operator)
    await operator.cancel("a")


async def test_call_is_unavailable_when_an_administrator_cancels_its_statement(
    database: Database, operator: Operator, caplog: pytest.LogCaptureFixture
) -> None:
    await database.add_devices(operator.tenant, 1)
    await operator.create(job_id="a", target_all=True)
    async with job_lock_held(database, operator.tenant, "a"):
        call = await database.blocked(operator.cancel("a"))

        await database.cancel_blocked_sessions()

        failure = await expect_error("DATABASE_UNAVAILABLE", call)
        assert failure.message == MESSAGE
    [line] = [line for line in caplog.messages if "a statement failed" in line]
    assert "QueryCanceledError: canceling statement due to user request" in line
    assert "jobs.cancel_job(" in line
    assert not any("the database is unavailable" in line for line in caplog.messages)
