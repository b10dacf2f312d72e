"""What is stored about devices that are gone from the device tables is removed."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from jobs_grpc.db.store import Store
from jobs_grpc.errors import DatabaseUnavailable, QueryTimeout
from jobs_grpc.maintenance.stale_devices import StaleDevices
from jobs_grpc.maintenance.sweeper import Sweeper
from tests.support.database import Database, request_session, rows_locked


@pytest.fixture
async def store(database: Database) -> AsyncIterator[Store]:
    """A store of the request role. The device tables are the platform's, and empty."""
    await database.owner.execute(
        "UPDATE jobs.device_tables SET is_own = false; TRUNCATE jobs.devices, device_state"
    )
    async with request_session(database) as (_, store):
        yield store


async def _add(database: Database, tenant: str, *devices: str) -> None:
    await database.add_devices(tenant, devices)
    await database.owner.execute(
        "INSERT INTO jobs.devices (tenant_id, device_id) SELECT $1, unnest($2::text[])",
        tenant,
        devices,
    )


async def _remove(database: Database, tenant: str, *devices: str) -> None:
    await database.owner.execute(
        "DELETE FROM device_state WHERE tenant_id = $1 AND device_id = ANY($2)", tenant, devices
    )


async def _stored(database: Database) -> list[tuple[str, str]]:
    rows = await database.owner.fetch("SELECT tenant_id, device_id FROM jobs.devices ORDER BY 1, 2")
    return [tuple(row) for row in rows]


def _stale_devices(database: Database, store: Store, limit: int = 1000) -> StaleDevices:
    return StaleDevices(
        database.owner.fetch,
        lambda tenant_id, after: store.remove_stale_devices(tenant_id, after, limit),
    )


async def test_rows_of_devices_that_are_gone_are_removed_in_batches(
    database: Database, store: Store
) -> None:
    for tenant in ("acme", "globex"):
        await _add(database, tenant, *"abcde")
    await _remove(database, "acme", "b", "e")
    await _remove(database, "globex", "a")
    stale_devices = _stale_devices(database, store, limit=2)

    batches = 0
    while len(await _stored(database)) > 7:
        await stale_devices.step()
        batches += 1
        assert batches <= 6

    assert await _stored(database) == [
        *(("acme", device) for device in "acd"),
        *(("globex", device) for device in "bcde"),
    ]


async def test_tenant_without_any_device_keeps_its_rows_of_platform_tables(
    database: Database, store: Store
) -> None:
    """Its platform may just be loading the table again."""
    await _add(database, "acme", "a")
    await _remove(database, "acme", "a")

    await _stale_devices(database, store).step()

    assert await _stored(database) == [("acme", "a")]


async def test_rows_of_own_tables_are_removed(database: Database, store: Store) -> None:
    """An update of last seen can store a row of a device that is being removed."""
    await _add(database, "acme", "a", "b")
    await _remove(database, "acme", "b")
    await database.owner.execute("UPDATE jobs.device_tables SET is_own = true")

    await _stale_devices(database, store).step()

    assert await _stored(database) == [("acme", "a")]


async def test_row_of_the_last_device_is_removed_from_own_tables(
    database: Database, store: Store
) -> None:
    await _add(database, "acme", "a")
    await _remove(database, "acme", "a")
    await database.owner.execute("UPDATE jobs.device_tables SET is_own = true")

    await _stale_devices(database, store).step()

    assert await _stored(database) == []


async def test_next_pass_starts_after_the_interval(database: Database, store: Store) -> None:
    await _add(database, "acme", "a", "b")
    stale_devices = _stale_devices(database, store)
    await stale_devices.step()
    await _remove(database, "acme", "b")

    await stale_devices.step()
    assert len(await _stored(database)) == 2

    repeated = StaleDevices(database.owner.fetch, store.remove_stale_devices, pass_interval=0)
    await repeated.step()
    assert await _stored(database) == [("acme", "a")]


async def test_pass_continues_after_the_database_was_unavailable(
    database: Database, store: Store
) -> None:
    await _add(database, "acme", "a", "b")
    await _remove(database, "acme", "b")
    errors = [DatabaseUnavailable()]

    async def remove(tenant_id: str, after: str) -> str | None:
        if errors:
            raise errors.pop()
        return await store.remove_stale_devices(tenant_id, after)

    stale_devices = StaleDevices(database.owner.fetch, remove)
    await stale_devices.step()
    await stale_devices.step()

    assert await _stored(database) == [("acme", "a")]


async def test_pass_skips_a_tenant_whose_batch_takes_too_long(
    database: Database, store: Store
) -> None:
    for tenant in ("acme", "globex"):
        await _add(database, tenant, "a", "b")
        await _remove(database, tenant, "b")

    async def remove(tenant_id: str, after: str) -> str | None:
        if tenant_id == "acme":
            raise QueryTimeout(60)
        return await store.remove_stale_devices(tenant_id, after)

    stale_devices = StaleDevices(database.owner.fetch, remove)
    await stale_devices.step()
    await stale_devices.step()

    assert await _stored(database) == [("acme", "a"), ("acme", "b"), ("globex", "a")]


@pytest.mark.single_node("a call inside a transaction is not delegated on Citus")
async def test_labels_stay_when_the_device_returns_during_the_removal(
    database: Database, store: Store
) -> None:
    """The removal waits for the row, and then looks for the device again."""
    await _add(database, "acme", "a", "b")
    await _remove(database, "acme", "b")
    async with rows_locked(database, "jobs.devices", tenant_id="acme", device_id="b"):
        removal = asyncio.create_task(store.remove_stale_devices("acme", ""))
        await database.wait_for_blocked_sessions(1)
        await database.add_devices("acme", ["b"])
    await removal

    assert await _stored(database) == [("acme", "a"), ("acme", "b")]


async def test_sweeper_examines_devices_in_its_cleanup(database: Database, store: Store) -> None:
    await _add(database, "acme", "a", "b")
    await _remove(database, "acme", "b")

    async with Sweeper(
        database.owner_dsn, remove_stale_devices=store.remove_stale_devices
    ) as sweeper:
        await sweeper.run_cleanup()

    assert await _stored(database) == [("acme", "a")]
