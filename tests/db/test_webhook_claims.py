"""What a dispatcher of webhooks calls: the search, the claim, and the storage of results."""

from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import pytest

from tests.support.database import Database
from tests.support.event_rows import queue_event, queue_events
from tests.support.webhooks import Dispatcher, add_events, sequence, set_verified

_CREATE = "SELECT * FROM jobs.create_webhook($1, $2, 'https://hooks.example/', '', $3, 'k1')"
_TABLES = ["jobs.events", "jobs.event_heads", "jobs.webhooks"]
_STATE = "SELECT * FROM jobs.webhooks WHERE tenant_id = $1 AND webhook_id = $2"


@dataclass(frozen=True, kw_only=True)
class DispatcherWithEvents(Dispatcher):
    """Runs the dispatcher's statements for one webhook, and adds events of its tenant."""

    database: Database

    async def add(self, count: int = 1, **event: Any) -> list[int]:
        """Add events to the log of the tenant, and return their positions."""
        return await add_events(self.database, self.tenant, count, **event)

    async def add_and_claim(self, count: int = 1, **event: Any) -> list[int]:
        positions = await self.add(count, **event)
        await self.claim()
        return positions

    async def state(self, *columns: str) -> Any:
        """Return columns of the webhook: one value, or a tuple of several."""
        row = await self.connection.fetchrow(_STATE, self.tenant, self.webhook_id)
        assert row
        values = tuple(row[column] for column in columns)
        return values if len(values) > 1 else values[0]


async def create(
    database: Database, tenant: str, types: list[str] | None = None
) -> DispatcherWithEvents:
    webhook_id = f"wh_{uuid4().hex}"
    await database.owner.fetch(_CREATE, tenant, webhook_id, types)
    await set_verified(database, webhook_id)
    return DispatcherWithEvents(database.owner, tenant, webhook_id, database=database)


@pytest.fixture
async def webhook(database: Database, tenant: str) -> DispatcherWithEvents:
    return await create(database, tenant)


@pytest.fixture
async def trips_webhook(database: Database, tenant: str) -> DispatcherWithEvents:
    """A webhook that receives only job.tripped."""
    return await create(database, tenant, ["job.tripped"])


async def test_claim_returns_the_events_in_order_with_the_position_before_each(
    webhook: DispatcherWithEvents,
) -> None:
    start = await webhook.state("position")
    positions = await webhook.add(3, reason="slow")

    rows = await webhook.claim()

    assert [row["position"] for row in rows] == positions
    assert [row["previous_position"] for row in rows] == [start, *positions[:2]]
    assert dict(rows[0]).items() >= {
        ("url", "https://hooks.example/"),
        ("secret_number", 1),
        ("key_id", "k1"),
        ("job_id", "j"),
        ("type", "job.paused"),
        ("status", "IN_PROGRESS"),
        ("counts", "[1,0,0,0,0,0,0]"),
        ("details", '{"reason": "slow"}'),
    }


async def test_previous_position_is_that_of_the_event_which_was_delivered_last(
    trips_webhook: DispatcherWithEvents,
) -> None:
    """Events of other types move the cursor, but a receiver does not see them."""
    (first,) = await trips_webhook.add_and_claim(event_type="job.tripped")
    await trips_webhook.succeed(first, is_last=True)
    (other,) = await trips_webhook.add()
    assert not await trips_webhook.claim()
    assert await trips_webhook.state("position") == other
    await trips_webhook.add(event_type="job.tripped")

    (row,) = await trips_webhook.claim()

    assert row["previous_position"] == first


async def test_webhook_without_matching_events_moves_to_the_head_and_is_idle(
    trips_webhook: DispatcherWithEvents,
) -> None:
    (position,) = await trips_webhook.add_and_claim(event_type="job.tripped")
    (other,) = await trips_webhook.add()
    await trips_webhook.succeed(position, is_last=True)
    assert await trips_webhook.is_due()

    assert not await trips_webhook.claim()

    assert not await trips_webhook.is_due()
    assert await trips_webhook.state("position", "due_at", "claim_id") == (other, None, None)


async def test_events_of_other_types_do_not_wake_an_idle_webhook(
    database: Database, tenant: str
) -> None:
    webhook = await create(database, tenant, ["job.tripped", "job.stage_approved"])
    start = await webhook.state("position")
    _, last = await webhook.add(2)
    assert not await webhook.is_due()
    assert await webhook.state("position") == last
    # A purge of what the webhook does not receive is no loss.
    await database.owner.execute(
        "UPDATE jobs.event_heads SET purged_position = position WHERE tenant_id = $1", tenant
    )
    await queue_event(database.owner, tenant)
    await webhook.add(event_type="job.stage_approved")

    rows = await webhook.claim()

    assert [(row["type"], row["previous_position"]) for row in rows] == [
        ("job.stage_approved", start)
    ]
    assert await webhook.state("purged_position") == 0


@pytest.mark.parametrize("count", [2000, 2500])
async def test_idle_webhook_wakes_when_its_event_is_in_the_first_of_several_batches(
    database: Database, trips_webhook: DispatcherWithEvents, count: int
) -> None:
    """sequence_events moves 2,000 events at a time; a full batch can be the last one."""
    await database.owner.execute(
        "INSERT INTO jobs.event_queue"
        " (tenant_id, job_id, number, type, occurred_at, status, counts)"
        " SELECT $1, 'many', n, CASE WHEN n = 1 THEN 'job.tripped' ELSE 'job.paused' END, now(),"
        " 'IN_PROGRESS', '{}'"
        " FROM generate_series(1, $2::integer) n",
        trips_webhook.tenant,
        count,
    )

    await sequence(database.owner, trips_webhook.tenant)

    assert await trips_webhook.is_due()


@pytest.mark.parametrize(("bytes_each", "expected"), [(0, 100), (30_000, 3), (100_000, 1)])
async def test_claim_returns_a_bounded_number_of_events(
    webhook: DispatcherWithEvents, bytes_each: int, expected: int
) -> None:
    positions = await webhook.add(5 if bytes_each else 120, reason="x" * bytes_each)

    assert await webhook.positions() == positions[:expected]


async def test_claim_examines_a_bounded_number_of_events_of_other_types(
    database: Database, trips_webhook: DispatcherWithEvents
) -> None:
    (first,) = await trips_webhook.add_and_claim(event_type="job.tripped")
    await queue_events(database.owner, trips_webhook.tenant, 5500, jobs=1)
    await sequence(database.owner, trips_webhook.tenant)
    await trips_webhook.succeed(first, is_last=True)
    *_, position = await trips_webhook.add(event_type="job.tripped")

    assert not await trips_webhook.claim()
    assert await trips_webhook.is_due()
    assert await trips_webhook.positions() == [position]


async def test_webhook_behind_the_purge_moves_up_and_says_so(
    database: Database, webhook: DispatcherWithEvents
) -> None:
    _, purged, last = await webhook.add(3)
    await database.owner.execute(
        "UPDATE jobs.event_heads SET purged_position = $2 WHERE tenant_id = $1",
        webhook.tenant,
        purged,
    )

    (row,) = await webhook.claim()

    # The receiver has not got this position, so it knows that events are missing.
    assert (row["previous_position"], row["position"]) == (purged, last)
    assert await webhook.state("purged_position") == purged


@pytest.mark.parametrize("tables", [_TABLES, _TABLES[:2]], ids=["database", "events only"])
async def test_restore_does_not_stop_a_webhook(
    database: Database, webhook: DispatcherWithEvents, tables: list[str]
) -> None:
    """Positions follow the time, so new events get larger positions than the lost ones.

    A cursor after the last restored position therefore does no harm.
    """
    (first,) = await webhook.add_and_claim()
    await webhook.succeed(first, is_last=True)
    assert not await webhook.claim()
    rows = "SELECT * FROM {} WHERE tenant_id = $1"
    backup = {
        table: await database.owner.fetch(rows.format(table), webhook.tenant) for table in tables
    }
    *_, lost = await webhook.add_and_claim(2)
    await webhook.succeed(lost, is_last=True)
    assert not await webhook.claim()
    for table, records in backup.items():
        schema, name = table.split(".")
        await database.owner.execute(f"DELETE FROM {table} WHERE tenant_id = $1", webhook.tenant)
        await database.owner.copy_records_to_table(
            name, schema_name=schema, records=map(tuple, records)
        )

    (position,) = await webhook.add()

    (row,) = await webhook.claim()
    assert row["position"] == position > lost
    # If the cursor was restored, the receiver sees that events were sent that are gone now.
    assert row["previous_position"] == (first if "jobs.webhooks" in tables else lost)


async def test_success_moves_the_cursor_and_renews_the_lease(
    database: Database, webhook: DispatcherWithEvents
) -> None:
    first, second = await webhook.add_and_claim(2)
    due_at = await webhook.state("due_at")

    assert await webhook.succeed(first)
    assert await webhook.state("due_at") == due_at
    await database.pass_time(15)
    assert await webhook.succeed(first)
    assert await webhook.state("due_at") != due_at
    await database.pass_time(25)
    assert not await webhook.is_due()

    assert await webhook.state("position", "previous_position") == (first, first)
    assert await webhook.state("last_http_status", "is_unproven") == (200, False)
    assert await webhook.succeed(second, is_last=True)
    assert await webhook.is_due()
    assert not await webhook.succeed(second)


async def test_failed_delivery_is_due_at_the_retry_time(
    database: Database, webhook: DispatcherWithEvents
) -> None:
    (position,) = await webhook.add_and_claim()

    assert await webhook.fail(position, 0, "TIMEOUT", retry_seconds=30) == (True, None)

    assert await webhook.state("failure_count", "last_error") == (1, "TIMEOUT")
    assert not await webhook.is_due()
    await database.pass_time(31)
    assert await webhook.is_due()
    (row,) = await webhook.claim()
    assert (row["position"], row["failure_count"]) == (position, 1)
    await webhook.succeed(position)
    failures = await webhook.state("failure_count", "first_failure_at", "last_error")
    assert failures == (0, None, None)


async def test_webhook_that_fails_for_five_days_is_disabled(
    database: Database, webhook: DispatcherWithEvents
) -> None:
    (position,) = await webhook.add_and_claim()
    await webhook.fail(position)
    await database.pass_time(5 * 86_400 - 60)
    await webhook.claim()
    assert await webhook.fail(position) == (True, None)
    await database.pass_time(60)
    await webhook.claim()

    assert await webhook.fail(position) == (True, "RETRIES_EXHAUSTED")

    assert await webhook.state("enabled", "disabled_cause") == (False, "RETRIES_EXHAUSTED")
    await webhook.add()
    assert not await webhook.is_due()
    assert not await webhook.claim()


async def test_status_410_disables_the_webhook_at_once(webhook: DispatcherWithEvents) -> None:
    (position,) = await webhook.add_and_claim()

    assert await webhook.fail(position, 410) == (True, "GONE")

    enabled, cursor, previous = await webhook.state("enabled", "position", "previous_position")
    assert (enabled, cursor) == (False, previous)


async def test_released_webhook_is_due_after_the_delay(
    database: Database, webhook: DispatcherWithEvents
) -> None:
    await webhook.add_and_claim()

    assert await webhook.release()
    assert await webhook.is_due()
    await webhook.claim()
    assert await webhook.release(60)
    assert not await webhook.is_due()
    await database.pass_time(61)
    assert await webhook.is_due()


async def test_search_separates_webhooks_that_fail_and_skips_tenants(
    database: Database, tenant: str
) -> None:
    proven, failing, new = [await create(database, tenant) for _ in range(3)]
    first, second = await new.add(2)
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
