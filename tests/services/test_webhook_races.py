"""Calls about webhooks, dispatchers and changes of jobs in explicit orders."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from uuid import uuid4

import asyncpg
import pytest
from grpc import StatusCode

from tests.support.database import Database, rows_locked
from tests.support.event_rows import queue_event
from tests.support.failures import expect_failure
from tests.support.server import Server
from tests.support.webhooks import (
    Dispatcher,
    RecordingSender,
    WebhookCaller,
    add_events,
    running_webhook_server,
    sequence,
    set_verified,
)

pytestmark = pytest.mark.single_node("holds locks and transactions on one node")


@pytest.fixture(scope="module")
async def server(database: Database, webhook_keys: Path) -> AsyncIterator[Server]:
    """A server that sends webhooks."""
    async with running_webhook_server(database, webhook_keys, RecordingSender()) as running:
        yield running


@pytest.fixture
def caller(server: Server, tenant: str) -> WebhookCaller:
    """An admin."""
    return WebhookCaller.on(server, tenant)


@pytest.fixture
async def dispatcher(database: Database, caller: WebhookCaller) -> Dispatcher:
    """A dispatcher of a new webhook, whose URL is verified."""
    created = await caller.create()
    await set_verified(database, created.webhook.webhook_id)
    return Dispatcher(database.owner, caller.tenant, created.webhook.webhook_id)


@pytest.fixture
async def session(database: Database) -> AsyncIterator[asyncpg.Connection]:
    """A second session of the owner."""
    connection = await asyncpg.connect(database.owner_dsn)
    yield connection
    await connection.close()


@asynccontextmanager
async def begun(session: asyncpg.Connection, tenant: str) -> AsyncIterator[None]:
    """Run the statements of the block in a transaction of the tenant."""
    async with session.transaction():
        await session.execute("SELECT set_config('app.tenant_id', $1, true)", tenant)
        yield


async def test_two_concurrent_creates_share_one_free_place(
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


async def test_two_concurrent_creates_of_a_tenant_without_events_succeed(
    caller: WebhookCaller,
) -> None:
    await asyncio.gather(*(caller.create() for _ in range(8)))

    assert len(await caller.list()) == 8


async def test_event_that_is_committed_after_the_create_is_delivered(
    database: Database, caller: WebhookCaller, session: asyncpg.Connection
) -> None:
    async with begun(session, caller.tenant):
        await queue_event(session, caller.tenant)
        created = await caller.create()
    dispatcher = Dispatcher(database.owner, caller.tenant, created.webhook.webhook_id)

    await sequence(database.owner, caller.tenant)

    assert len(await dispatcher.claim()) == 1


async def test_webhook_does_not_become_idle_while_an_event_is_sequenced(
    database: Database, dispatcher: Dispatcher, session: asyncpg.Connection
) -> None:
    """The claim does not wait for the sequencing, and leaves the webhook due."""
    await make_due(database, dispatcher)
    await queue_event(database.owner, dispatcher.tenant)
    async with begun(session, dispatcher.tenant):
        await session.execute("SELECT jobs.sequence_events($1)", dispatcher.tenant)
        # One row of NULLs.
        assert await dispatcher.positions() == [None]
        assert await dispatcher.is_due()

    assert len(await dispatcher.positions()) == 1


async def test_event_that_is_sequenced_after_the_webhook_has_become_idle_wakes_it(
    database: Database, dispatcher: Dispatcher, session: asyncpg.Connection
) -> None:
    """The sequencing waits for the claim, so it sees that the webhook is idle."""
    await make_due(database, dispatcher)
    await queue_event(database.owner, dispatcher.tenant)
    async with begun(session, dispatcher.tenant):
        assert not await on(session, dispatcher).claim()
        sequencing = asyncio.create_task(sequence(database.owner, dispatcher.tenant))
        await wait_for_blocked(session, 1)
    await sequencing

    assert await dispatcher.is_due()
    assert len(await dispatcher.claim()) == 1


async def make_due(database: Database, dispatcher: Dispatcher) -> None:
    """Let the webhook be due without an event."""
    await database.owner.execute(
        "UPDATE jobs.webhooks SET due_at = now() WHERE webhook_id = $1", dispatcher.webhook_id
    )


async def wait_for_blocked(session: asyncpg.Connection, count: int) -> None:
    """Return when `count` sessions of the database wait for a lock, as another session sees it."""
    for _ in range(3000):
        await session.execute("SELECT pg_stat_clear_snapshot()")
        blocked = await session.fetchval(
            "SELECT count(*) FROM pg_stat_activity"
            " WHERE datname = current_database() AND wait_event_type = 'Lock'"
        )
        if blocked == count:
            return
        await asyncio.sleep(0.01)
    pytest.fail(f"{count} sessions did not wait for a lock")


def on(session: asyncpg.Connection, dispatcher: Dispatcher) -> Dispatcher:
    """Another dispatcher of the same webhook, on another connection."""
    return replace(dispatcher, connection=session, claim_id=uuid4())


async def test_only_one_of_two_dispatchers_claims_a_webhook(
    database: Database, dispatcher: Dispatcher, session: asyncpg.Connection
) -> None:
    positions = await add_events(database, dispatcher.tenant)
    other = on(session, dispatcher)

    async with begun(session, dispatcher.tenant):
        assert await other.positions() == positions
        # Does not wait.
        assert not await dispatcher.claim()
    assert not await dispatcher.claim()

    assert not await dispatcher.succeed(positions[0])
    assert await other.succeed(positions[0])


async def test_dispatcher_that_was_frozen_cannot_store_after_its_lease(
    database: Database, caller: WebhookCaller, dispatcher: Dispatcher, session: asyncpg.Connection
) -> None:
    first, second = await add_events(database, dispatcher.tenant, 2)
    await dispatcher.claim()
    await database.pass_time(31)
    other = on(session, dispatcher)
    assert await other.positions() == [first, second]
    assert await other.succeed(first)
    assert await other.succeed(second)

    assert not await dispatcher.succeed(first)
    assert await dispatcher.fail(first) == (False, None)
    assert not await dispatcher.release()

    assert (await caller.get(dispatcher.webhook_id)).position == second


@pytest.mark.parametrize(
    "change",
    [{"position": True}, {"url": "https://new.example/"}, {"types": ["job.completed"]}],
    ids=["position", "url", "types"],
)
async def test_dispatcher_cannot_overwrite_an_update(
    database: Database,
    caller: WebhookCaller,
    dispatcher: Dispatcher,
    change: dict[str, object],
) -> None:
    first, second = await add_events(database, dispatcher.tenant, 2)
    before = (await caller.get(dispatcher.webhook_id)).position
    await dispatcher.claim()
    fields = {"position": second} if "position" in change else change

    updated = await caller.update(dispatcher.webhook_id, **fields)

    assert not await dispatcher.succeed(first)
    assert updated.position == (second if "position" in change else before)
    assert await caller.get(dispatcher.webhook_id) == updated
    assert await dispatcher.is_due()


async def test_update_that_waits_for_a_result_ends_the_claim(
    database: Database, caller: WebhookCaller, dispatcher: Dispatcher, session: asyncpg.Connection
) -> None:
    first, second = await add_events(database, dispatcher.tenant, 2)
    other = on(session, dispatcher)
    await other.claim()
    async with begun(session, dispatcher.tenant):
        assert await other.succeed(first)
        update = asyncio.create_task(caller.update(dispatcher.webhook_id, position=first - 1))
        await wait_for_blocked(session, 1)

    assert (await update).position == first - 1
    assert not await other.succeed(second)
    assert await dispatcher.positions() == [first, second]


async def test_disabled_webhook_stays_disabled_when_a_delivery_fails(
    database: Database, caller: WebhookCaller, dispatcher: Dispatcher
) -> None:
    (position,) = await add_events(database, dispatcher.tenant)
    await dispatcher.claim()
    await caller.update(dispatcher.webhook_id, enabled=False)

    assert await dispatcher.fail(position) == (False, None)

    assert not await dispatcher.is_due()
    assert (await caller.get(dispatcher.webhook_id)).failure_count == 0


async def test_description_does_not_end_the_claim(
    database: Database, caller: WebhookCaller, dispatcher: Dispatcher
) -> None:
    (position,) = await add_events(database, dispatcher.tenant)
    await dispatcher.claim()

    await caller.update(dispatcher.webhook_id, description="new", enabled=True)

    assert await dispatcher.succeed(position)


async def test_result_of_a_deleted_webhook_is_not_stored(
    database: Database, caller: WebhookCaller, dispatcher: Dispatcher
) -> None:
    (position,) = await add_events(database, dispatcher.tenant)
    await dispatcher.claim()

    await caller.delete(dispatcher.webhook_id)

    assert not await dispatcher.succeed(position)
    assert not await dispatcher.claim()
    assert not await dispatcher.is_due()


async def test_delete_that_waits_for_a_claim_succeeds(
    database: Database, caller: WebhookCaller, dispatcher: Dispatcher, session: asyncpg.Connection
) -> None:
    await add_events(database, dispatcher.tenant)
    async with begun(session, dispatcher.tenant):
        await on(session, dispatcher).claim()
        delete = asyncio.create_task(caller.delete(dispatcher.webhook_id))
        await wait_for_blocked(session, 1)
    await delete

    with expect_failure(StatusCode.NOT_FOUND, "WEBHOOK_NOT_FOUND"):
        await caller.get(dispatcher.webhook_id)


async def test_rotation_ends_the_claim_so_that_no_delivery_has_only_the_old_signature(
    database: Database, caller: WebhookCaller, dispatcher: Dispatcher
) -> None:
    (position,) = await add_events(database, dispatcher.tenant)
    (before,) = await dispatcher.claim()
    assert (before["secret_number"], before["previous_key_id"]) == (1, None)

    await caller.rotate(dispatcher.webhook_id)

    assert not await dispatcher.succeed(position)
    (after,) = await dispatcher.claim()
    assert (after["secret_number"], after["key_id"], after["previous_key_id"]) == (2, "k1", "k1")


async def test_two_concurrent_rotations_create_two_secrets(
    database: Database, caller: WebhookCaller, dispatcher: Dispatcher
) -> None:
    async with rows_locked(database, "jobs.webhooks", webhook_id=dispatcher.webhook_id):
        rotations = asyncio.gather(
            caller.rotate(dispatcher.webhook_id), caller.rotate(dispatcher.webhook_id)
        )
        await database.wait_for_blocked_sessions(2)
    first, second = await rotations

    assert first.secret != second.secret


async def test_one_of_two_concurrent_tests_is_sent(
    database: Database, caller: WebhookCaller, dispatcher: Dispatcher
) -> None:
    async with rows_locked(database, "jobs.webhooks", webhook_id=dispatcher.webhook_id):
        tests = asyncio.gather(
            caller.test(dispatcher.webhook_id),
            caller.test(dispatcher.webhook_id),
            return_exceptions=True,
        )
        await database.wait_for_blocked_sessions(2)

    results = await tests
    assert sum(not isinstance(result, BaseException) for result in results) == 1
