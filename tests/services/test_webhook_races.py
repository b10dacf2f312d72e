"""Calls about webhooks, dispatchers and changes of jobs in explicit orders."""

import asyncio
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import asyncpg
import pytest

from tests.support.database import Database, rows_locked
from tests.support.event_rows import queue_event
from tests.support.failures import expect_error
from tests.support.postgres import connected
from tests.support.server import Server
from tests.support.webhooks import (
    DispatcherWithCalls,
    RecordingSender,
    WebhookCaller,
    create_webhook,
    running_webhook_server,
    sequence,
)

pytestmark = pytest.mark.single_node("holds locks and transactions on one node")


@pytest.fixture(scope="module")
async def server(database: Database, webhook_keys: Path) -> AsyncIterator[Server]:
    async with running_webhook_server(database, webhook_keys, RecordingSender()) as running:
        yield running


@pytest.fixture
def caller(server: Server, tenant: str) -> WebhookCaller:
    return WebhookCaller.on(server, tenant)


@pytest.fixture
async def hook(database: Database, caller: WebhookCaller) -> DispatcherWithCalls:
    """A new webhook, whose URL is verified."""
    return await create_webhook(database, caller)


@pytest.fixture
async def session(database: Database) -> AsyncIterator[asyncpg.Connection]:
    async with connected(database.owner_dsn) as connection:
        yield connection


@pytest.fixture
def other(hook: DispatcherWithCalls, session: asyncpg.Connection) -> DispatcherWithCalls:
    """Another dispatcher of the same webhook, on the second session."""
    return replace(hook, connection=session, claim_id=uuid4())


@asynccontextmanager
async def begun(session: asyncpg.Connection, tenant: str) -> AsyncIterator[None]:
    """Run the statements of the block in a transaction of the tenant."""
    async with session.transaction():
        await session.execute("SELECT set_config('app.tenant_id', $1, true)", tenant)
        yield


async def blocked(session: asyncpg.Connection, call: Awaitable[Any]) -> asyncio.Task[Any]:
    """Start a call, and return it when it waits for a lock, as the second session sees it."""
    task = asyncio.ensure_future(call)
    for _ in range(3000):
        await session.execute("SELECT pg_stat_clear_snapshot()")
        count = await session.fetchval(
            "SELECT count(*) FROM pg_stat_activity"
            " WHERE datname = current_database() AND wait_event_type = 'Lock'"
        )
        if count == 1:
            return task
        await asyncio.sleep(0.01)
    pytest.fail("the call did not wait for a lock")


async def test_one_of_two_creates_is_rejected_when_one_webhook_is_left(
    database: Database, caller: WebhookCaller
) -> None:
    for _ in range(15):
        await caller.create()

    async with rows_locked(database, "jobs.event_heads", tenant_id=caller.tenant):
        creates = asyncio.gather(caller.create(), caller.create(), return_exceptions=True)
        await database.wait_for_blocked_sessions(2)

    results = await creates
    assert sum(not isinstance(result, BaseException) for result in results) == 1
    assert len(await caller.list()) == 16


async def test_concurrent_creates_of_a_tenant_without_events_succeed(caller: WebhookCaller) -> None:
    await asyncio.gather(*(caller.create() for _ in range(8)))

    assert len(await caller.list()) == 8


async def test_event_that_is_committed_after_the_create_is_delivered(
    database: Database, caller: WebhookCaller, session: asyncpg.Connection
) -> None:
    async with begun(session, caller.tenant):
        await queue_event(session, caller.tenant)
        hook = await create_webhook(database, caller, verified=False)

    await sequence(database.owner, caller.tenant)

    assert len(await hook.claim()) == 1


async def test_sequencing_keeps_hook_due(
    hook: DispatcherWithCalls, session: asyncpg.Connection
) -> None:
    """The claim does not wait for the sequencing, and leaves the webhook due."""
    await make_due(hook)
    await queue_event(hook.connection, hook.tenant)
    async with begun(session, hook.tenant):
        await session.execute("SELECT jobs.sequence_events($1)", hook.tenant)
        # One row of NULLs.
        assert await hook.positions() == [None]
        assert await hook.is_due()

    assert len(await hook.positions()) == 1


async def test_later_event_wakes_an_idle_webhook(
    hook: DispatcherWithCalls, other: DispatcherWithCalls
) -> None:
    """The sequencing waits for the claim, so it sees that the webhook is idle."""
    await make_due(hook)
    await queue_event(hook.connection, hook.tenant)
    async with begun(other.connection, hook.tenant):
        assert not await other.claim()
        sequencing = await blocked(other.connection, sequence(hook.connection, hook.tenant))
    await sequencing

    assert await hook.is_due()
    assert len(await hook.claim()) == 1


async def make_due(hook: DispatcherWithCalls) -> None:
    sql = "UPDATE jobs.webhooks SET due_at = now() WHERE webhook_id = $1"
    await hook.connection.execute(sql, hook.webhook_id)


async def test_one_dispatcher_claims_a_webhook(
    hook: DispatcherWithCalls, other: DispatcherWithCalls
) -> None:
    positions = await hook.add_events()

    async with begun(other.connection, hook.tenant):
        assert await other.positions() == positions
        # Does not wait.
        assert not await hook.claim()
    assert not await hook.claim()

    assert not await hook.succeed(positions[0])
    assert await other.succeed(positions[0])


async def test_result_is_not_stored_when_another_dispatcher_has_claimed(
    hook: DispatcherWithCalls, other: DispatcherWithCalls
) -> None:
    first, second = await hook.add_events(2)
    await hook.claim()
    await hook.database.pass_time(31)
    assert await other.positions() == [first, second]
    assert await other.succeed(first)
    assert await other.succeed(second)

    assert not await hook.succeed(first)
    assert await hook.fail(first) == (False, None)
    assert not await hook.release()

    assert (await hook.get()).position == second


@pytest.mark.parametrize(
    "change",
    [{"position": True}, {"url": "https://new.example/"}, {"types": ["job.completed"]}],
    ids=["position", "url", "types"],
)
async def test_delivery_result_does_not_overwrite_concurrent_update(
    hook: DispatcherWithCalls, change: dict[str, object]
) -> None:
    first, second = await hook.add_events(2)
    before = (await hook.get()).position
    await hook.claim()
    fields = {"position": second} if "position" in change else change

    updated = await hook.update(**fields)

    assert not await hook.succeed(first)
    assert updated.position == (second if "position" in change else before)
    assert await hook.get() == updated
    assert await hook.is_due()


async def test_update_after_a_result_ends_claim(
    hook: DispatcherWithCalls, other: DispatcherWithCalls
) -> None:
    first, second = await hook.add_events(2)
    await other.claim()
    async with begun(other.connection, hook.tenant):
        assert await other.succeed(first)
        update = await blocked(other.connection, hook.update(position=first - 1))

    assert (await update).position == first - 1
    assert not await other.succeed(second)
    assert await hook.positions() == [first, second]


async def test_description_does_not_end_the_claim(hook: DispatcherWithCalls) -> None:
    (position,) = await hook.add_events()
    await hook.claim()

    await hook.update(description="new", enabled=True)

    assert await hook.succeed(position)


@pytest.mark.parametrize("end", ["delete", "disable"])
async def test_result_of_a_deleted_or_disabled_webhook_is_not_stored(
    hook: DispatcherWithCalls, end: str
) -> None:
    (position,) = await hook.add_events()
    await hook.claim()

    if end == "delete":
        await hook.caller.delete(hook.webhook_id)
    else:
        await hook.update(enabled=False)

    assert not await hook.succeed(position)
    assert await hook.fail(position) == (False, None)
    assert not await hook.claim()
    assert not await hook.is_due()
    assert [webhook.failure_count for webhook in await hook.caller.list()] == [0] * (
        end == "disable"
    )


async def test_delete_waits_for_a_claim(
    hook: DispatcherWithCalls, other: DispatcherWithCalls
) -> None:
    await hook.add_events()
    async with begun(other.connection, hook.tenant):
        await other.claim()
        delete = await blocked(other.connection, hook.caller.delete(hook.webhook_id))
    await delete

    await expect_error("WEBHOOK_NOT_FOUND", hook.get())


async def test_rotation_ends_the_claim_that_has_only_the_old_secret(
    hook: DispatcherWithCalls,
) -> None:
    (position,) = await hook.add_events()
    (before,) = await hook.claim()
    assert (before["secret_number"], before["previous_key_id"]) == (1, None)

    await hook.caller.rotate(hook.webhook_id)

    assert not await hook.succeed(position)
    (after,) = await hook.claim()
    assert (after["secret_number"], after["key_id"], after["previous_key_id"]) == (2, "k1", "k1")


async def test_two_concurrent_rotations_create_two_secrets(hook: DispatcherWithCalls) -> None:
    async with rows_locked(hook.database, "jobs.webhooks", webhook_id=hook.webhook_id):
        rotations = [asyncio.create_task(hook.caller.rotate(hook.webhook_id)) for _ in range(2)]
        await hook.database.wait_for_blocked_sessions(2)

    assert len({(await rotation).secret for rotation in rotations}) == 2


async def test_one_of_two_concurrent_tests_is_sent(hook: DispatcherWithCalls) -> None:
    tests = [hook.caller.test(hook.webhook_id) for _ in range(2)]
    async with rows_locked(hook.database, "jobs.webhooks", webhook_id=hook.webhook_id):
        testing = asyncio.gather(*tests, return_exceptions=True)
        await hook.database.wait_for_blocked_sessions(2)

    results = await testing
    assert sum(not isinstance(result, BaseException) for result in results) == 1
