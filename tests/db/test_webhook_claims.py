"""What a dispatcher of webhooks calls: the search, the claim, and the storage of results."""

from uuid import uuid4

import pytest

from tests.support.database import Database
from tests.support.event_rows import queue_event, queue_events
from tests.support.webhooks import Dispatcher, add_events, sequence, set_verified

_CREATE = "SELECT * FROM jobs.create_webhook($1, $2, 'https://hooks.example/', '', $3, 'k1')"
_TABLES = ["jobs.events", "jobs.event_heads", "jobs.webhooks"]
_STATE = "SELECT * FROM jobs.webhooks WHERE tenant_id = $1 AND webhook_id = $2"


async def create(
    database: Database, tenant: str, types: list[str] | None = None, webhook_id: str = ""
) -> Dispatcher:
    """Create a webhook, and return a dispatcher of it."""
    webhook_id = webhook_id or f"wh_{uuid4().hex}"
    await database.owner.fetch(_CREATE, tenant, webhook_id, types)
    await set_verified(database, webhook_id)
    return Dispatcher(database.owner, tenant, webhook_id)


async def state(dispatcher: Dispatcher) -> dict[str, object]:
    """Return the columns of a webhook."""
    row = await dispatcher.connection.fetchrow(_STATE, dispatcher.tenant, dispatcher.webhook_id)
    return dict(row or {})


async def test_claim_returns_the_events_in_order_with_the_position_before_each(
    database: Database, tenant: str
) -> None:
    dispatcher = await create(database, tenant)
    start = (await state(dispatcher))["position"]
    positions = await add_events(database, tenant, 3, reason="slow")

    rows = await dispatcher.claim()

    assert [row["position"] for row in rows] == positions
    assert [row["previous_position"] for row in rows] == [start, *positions[:2]]
    first = rows[0]
    assert (first["url"], first["secret_number"], first["key_id"]) == (
        "https://hooks.example/",
        1,
        "k1",
    )
    assert (first["job_id"], first["type"], first["status"]) == ("j", "job.paused", "IN_PROGRESS")
    assert (first["counts"], first["details"]) == ("[1,0,0,0,0,0,0]", '{"reason": "slow"}')


async def test_previous_position_is_that_of_the_event_which_was_delivered_last(
    database: Database, tenant: str
) -> None:
    """Events of other types move the cursor, but a receiver does not see them."""
    dispatcher = await create(database, tenant, ["job.tripped"])
    (first,) = await add_events(database, tenant, event_type="job.tripped")
    await dispatcher.claim()
    await dispatcher.succeed(first, is_last=True)
    (other,) = await add_events(database, tenant)
    assert not await dispatcher.claim()
    assert (await state(dispatcher))["position"] == other
    await add_events(database, tenant, event_type="job.tripped")

    (row,) = await dispatcher.claim()

    assert row["previous_position"] == first


async def test_webhook_without_matching_events_moves_to_the_head_and_is_idle(
    database: Database, tenant: str
) -> None:
    dispatcher = await create(database, tenant, ["job.tripped"])
    (position,) = await add_events(database, tenant, event_type="job.tripped")
    await dispatcher.claim()
    (other,) = await add_events(database, tenant)
    await dispatcher.succeed(position, is_last=True)
    assert await dispatcher.is_due()

    assert not await dispatcher.claim()

    assert not await dispatcher.is_due()
    webhook = await state(dispatcher)
    assert (webhook["position"], webhook["due_at"], webhook["claim_id"]) == (other, None, None)


async def test_events_of_other_types_do_not_wake_an_idle_webhook(
    database: Database, tenant: str
) -> None:
    dispatcher = await create(database, tenant, ["job.tripped", "job.approved"])
    start = (await state(dispatcher))["position"]
    _, last = await add_events(database, tenant, 2)
    assert not await dispatcher.is_due()
    assert (await state(dispatcher))["position"] == last
    # A purge of what the webhook does not receive is no loss.
    await database.owner.execute(
        "UPDATE jobs.event_heads SET purged_position = position WHERE tenant_id = $1", tenant
    )
    await queue_event(database.owner, tenant)
    await add_events(database, tenant, event_type="job.approved")

    rows = await dispatcher.claim()

    assert [(row["type"], row["previous_position"]) for row in rows] == [("job.approved", start)]
    assert (await state(dispatcher))["purged_position"] == 0


@pytest.mark.parametrize("count", [2000, 2500])
async def test_idle_webhook_wakes_when_its_event_is_in_the_first_of_several_batches(
    database: Database, tenant: str, count: int
) -> None:
    """sequence_events moves 2,000 events at a time; a full batch can be the last one."""
    dispatcher = await create(database, tenant, ["job.tripped"])
    await database.owner.execute(
        "INSERT INTO jobs.event_queue"
        " (tenant_id, job_id, number, type, occurred_at, status, counts)"
        " SELECT $1, 'many', n, CASE WHEN n = 1 THEN 'job.tripped' ELSE 'job.paused' END, now(),"
        " 'IN_PROGRESS', '{}'"
        " FROM generate_series(1, $2::integer) n",
        tenant,
        count,
    )

    await sequence(database.owner, tenant)

    assert await dispatcher.is_due()


@pytest.mark.parametrize(("bytes_each", "expected"), [(0, 100), (30_000, 3), (100_000, 1)])
async def test_claim_returns_a_bounded_number_of_events(
    database: Database, tenant: str, bytes_each: int, expected: int
) -> None:
    dispatcher = await create(database, tenant)
    positions = await add_events(
        database, tenant, 120 if not bytes_each else 5, reason="x" * bytes_each
    )

    assert await dispatcher.positions() == positions[:expected]


async def test_claim_examines_a_bounded_number_of_events_of_other_types(
    database: Database, tenant: str
) -> None:
    dispatcher = await create(database, tenant, ["job.tripped"])
    (first,) = await add_events(database, tenant, event_type="job.tripped")
    await dispatcher.claim()
    await queue_events(database.owner, tenant, 5500, jobs=1)
    await sequence(database.owner, tenant)
    await dispatcher.succeed(first, is_last=True)
    *_, position = await add_events(database, tenant, event_type="job.tripped")

    assert not await dispatcher.claim()
    assert await dispatcher.is_due()
    assert await dispatcher.positions() == [position]


async def test_webhook_behind_the_purge_moves_up_and_says_so(
    database: Database, tenant: str
) -> None:
    dispatcher = await create(database, tenant)
    positions = await add_events(database, tenant, 3)
    await database.owner.execute(
        "UPDATE jobs.event_heads SET purged_position = $2 WHERE tenant_id = $1",
        tenant,
        positions[1],
    )

    (row,) = await dispatcher.claim()

    # The receiver has not got this position, so it knows that events are missing.
    assert (row["previous_position"], row["position"]) == (positions[1], positions[2])
    assert (await state(dispatcher))["purged_position"] == positions[1]


@pytest.mark.parametrize("tables", [_TABLES, _TABLES[:2]], ids=["database", "events only"])
async def test_restore_does_not_stop_a_webhook(
    database: Database, tenant: str, tables: list[str]
) -> None:
    """Positions follow the time, so new events get larger positions than the lost ones.

    A cursor after the last restored position therefore does no harm.
    """
    dispatcher = await create(database, tenant)
    (first,) = await add_events(database, tenant)
    await dispatcher.claim()
    await dispatcher.succeed(first, is_last=True)
    assert not await dispatcher.claim()
    backup = {
        table: [
            tuple(row)
            for row in await database.owner.fetch(
                f"SELECT * FROM {table} WHERE tenant_id = $1", tenant
            )
        ]
        for table in tables
    }
    *_, lost = await add_events(database, tenant, 2)
    await dispatcher.claim()
    await dispatcher.succeed(lost, is_last=True)
    assert not await dispatcher.claim()
    for table, rows in backup.items():
        schema, name = table.split(".")
        await database.owner.execute(f"DELETE FROM {table} WHERE tenant_id = $1", tenant)
        await database.owner.copy_records_to_table(name, schema_name=schema, records=rows)

    (position,) = await add_events(database, tenant)

    (row,) = await dispatcher.claim()
    assert row["position"] == position > lost
    # If the cursor was restored, the receiver sees that events were sent that are gone now.
    assert row["previous_position"] == (first if "jobs.webhooks" in tables else lost)


async def test_success_moves_the_cursor_and_renews_the_lease(
    database: Database, tenant: str
) -> None:
    dispatcher = await create(database, tenant)
    first, second = await add_events(database, tenant, 2)
    await dispatcher.claim()
    due_at = (await state(dispatcher))["due_at"]

    assert await dispatcher.succeed(first)
    assert (await state(dispatcher))["due_at"] == due_at
    await database.pass_time(15)
    assert await dispatcher.succeed(first)
    assert (await state(dispatcher))["due_at"] != due_at
    await database.pass_time(25)
    assert not await dispatcher.is_due()

    webhook = await state(dispatcher)
    assert (webhook["position"], webhook["previous_position"]) == (first, first)
    assert (webhook["last_http_status"], webhook["is_unproven"]) == (200, False)
    assert await dispatcher.succeed(second, is_last=True)
    assert await dispatcher.is_due()
    assert not await dispatcher.succeed(second)


async def test_failed_delivery_is_due_at_the_retry_time(database: Database, tenant: str) -> None:
    dispatcher = await create(database, tenant)
    (position,) = await add_events(database, tenant)
    await dispatcher.claim()

    assert await dispatcher.fail(position, 0, "TIMEOUT", retry_seconds=30) == (True, None)

    webhook = await state(dispatcher)
    assert (webhook["failure_count"], webhook["last_error"]) == (1, "TIMEOUT")
    assert not await dispatcher.is_due()
    await database.pass_time(31)
    assert await dispatcher.is_due()
    (row,) = await dispatcher.claim()
    assert (row["position"], row["failure_count"]) == (position, 1)
    await dispatcher.succeed(position)
    webhook = await state(dispatcher)
    assert (webhook["failure_count"], webhook["first_failure_at"], webhook["last_error"]) == (
        0,
        None,
        None,
    )


async def test_webhook_that_fails_for_five_days_is_disabled(
    database: Database, tenant: str
) -> None:
    dispatcher = await create(database, tenant)
    (position,) = await add_events(database, tenant)
    await dispatcher.claim()
    await dispatcher.fail(position, retry_seconds=5)
    await database.pass_time(5 * 86_400 - 60)
    await dispatcher.claim()
    assert await dispatcher.fail(position, retry_seconds=5) == (True, None)
    await database.pass_time(60)
    await dispatcher.claim()

    assert await dispatcher.fail(position, retry_seconds=5) == (True, "RETRIES_EXHAUSTED")

    webhook = await state(dispatcher)
    assert (webhook["enabled"], webhook["disabled_cause"]) == (False, "RETRIES_EXHAUSTED")
    await add_events(database, tenant)
    assert not await dispatcher.is_due()
    assert not await dispatcher.claim()


async def test_status_410_disables_the_webhook_at_once(database: Database, tenant: str) -> None:
    dispatcher = await create(database, tenant)
    (position,) = await add_events(database, tenant)
    await dispatcher.claim()

    assert await dispatcher.fail(position, 410) == (True, "GONE")

    webhook = await state(dispatcher)
    assert (webhook["enabled"], webhook["position"]) == (False, webhook["previous_position"])


async def test_released_webhook_is_due_after_the_delay(database: Database, tenant: str) -> None:
    dispatcher = await create(database, tenant)
    await add_events(database, tenant)
    await dispatcher.claim()

    assert await dispatcher.release()
    assert await dispatcher.is_due()
    await dispatcher.claim()
    assert await dispatcher.release(60)
    assert not await dispatcher.is_due()
    await database.pass_time(61)
    assert await dispatcher.is_due()


async def test_search_separates_webhooks_that_fail_and_skips_tenants(
    database: Database, tenant: str
) -> None:
    proven, failing, new = [await create(database, tenant) for _ in range(3)]
    first, second = await add_events(database, tenant, 2)
    for dispatcher in (proven, failing):
        await dispatcher.claim()
        await dispatcher.succeed(first)
    await failing.fail(second, retry_seconds=0)
    await proven.release()

    async def found(is_unproven: bool, *skipped: str) -> set[str]:
        rows = await database.owner.fetch(
            "SELECT * FROM jobs.webhooks_due($1, 1000, $2)", is_unproven, list(skipped)
        )
        return {row["webhook_id"] for row in rows if row["tenant_id"] == tenant}

    assert await found(False) == {proven.webhook_id}
    assert await found(True) == {failing.webhook_id, new.webhook_id}
    assert await found(False, tenant) == set()
