"""What is stored about devices that are gone from the device tables is removed."""

from collections.abc import AsyncIterator

import pytest

from jobs_grpc.db.store import Store
from jobs_grpc.errors import DatabaseUnavailable, QueryTimeout
from jobs_grpc.maintenance.stale_devices import StaleDevices
from jobs_grpc.maintenance.sweeper import Sweeper
from tests.support.database import Database, edited_function, request_session, rows_locked
from tests.support.postgres import connected


class Devices:
    """The devices of the platform's tables, and what is stored about them."""

    def __init__(self, database: Database, store: Store) -> None:
        self.database, self.store = database, store
        self.execute = database.owner.execute

    async def add(self, tenant: str, *devices: str) -> None:
        """Add devices, and store something about each."""
        await self.database.add_devices(tenant, devices)
        await self.execute(
            "INSERT INTO jobs.devices (tenant_id, device_id) SELECT $1, unnest($2::text[])",
            tenant,
            devices,
        )

    async def remove(self, tenant: str, *devices: str) -> None:
        """Remove devices from the table of the platform."""
        await self.execute(
            "DELETE FROM device_state WHERE tenant_id = $1 AND device_id = ANY($2)", tenant, devices
        )

    async def stored(self) -> list[tuple[str, str]]:
        """The devices about which something is stored."""
        rows = await self.database.owner.fetch(
            "SELECT tenant_id, device_id FROM jobs.devices ORDER BY 1, 2"
        )
        return [tuple(row) for row in rows]

    def stale(self, limit: int = 1000) -> StaleDevices:
        """The task that removes rows."""
        return StaleDevices(
            self.database.owner.fetch,
            lambda tenant_id, after: self.store.remove_stale_devices(tenant_id, after, limit),
        )


@pytest.fixture
async def devices(database: Database) -> AsyncIterator[Devices]:
    """The device tables are the platform's, and empty."""
    await database.owner.execute(
        "UPDATE jobs.device_tables SET is_own = false; TRUNCATE jobs.devices, device_state"
    )
    async with request_session(database) as (_, store):
        yield Devices(database, store)


async def test_rows_of_devices_that_are_gone_are_removed_in_batches(devices: Devices) -> None:
    for tenant in ("acme", "globex"):
        await devices.add(tenant, *"abcde")
    await devices.remove("acme", "b", "e")
    await devices.remove("globex", "a")
    stale_devices = devices.stale(limit=2)

    batches = 0
    while len(await devices.stored()) > 7:
        await stale_devices.step()
        batches += 1
        assert batches <= 6

    assert await devices.stored() == [
        *(("acme", device) for device in "acd"),
        *(("globex", device) for device in "bcde"),
    ]


async def test_tenant_without_devices_keeps_its_rows_of_platform_tables(devices: Devices) -> None:
    """Its platform may just be loading the table again."""
    await devices.add("acme", "a")
    await devices.remove("acme", "a")

    await devices.stale().step()

    assert await devices.stored() == [("acme", "a")]


@pytest.mark.parametrize("removed", ["b", "ab"])
async def test_rows_of_own_tables_are_removed(devices: Devices, removed: str) -> None:
    """An update of last seen can store a row of a device that is being removed."""
    await devices.add("acme", "a", "b")
    await devices.remove("acme", *removed)
    await devices.execute("UPDATE jobs.device_tables SET is_own = true")

    await devices.stale().step()

    assert await devices.stored() == [("acme", "a")] * (removed == "b")


async def test_next_pass_starts_after_the_interval(devices: Devices) -> None:
    await devices.add("acme", "a", "b")
    stale_devices = devices.stale()
    await stale_devices.step()
    await devices.remove("acme", "b")

    await stale_devices.step()
    assert len(await devices.stored()) == 2

    fetch, remove = devices.database.owner.fetch, devices.store.remove_stale_devices
    await StaleDevices(fetch, remove, pass_interval=0).step()
    assert await devices.stored() == [("acme", "a")]


@pytest.mark.parametrize(
    ("error", "stays"), [(DatabaseUnavailable(), []), (QueryTimeout(60), [("acme", "b")])]
)
async def test_pass_continues_after_an_outage_and_skips_a_tenant_that_takes_too_long(
    devices: Devices, error: Exception, stays: list[tuple[str, str]]
) -> None:
    for tenant in ("acme", "globex"):
        await devices.add(tenant, "a", "b")
        await devices.remove(tenant, "b")
    errors = [error]

    async def remove(tenant_id: str, after: str) -> str | None:
        if tenant_id == "acme" and errors:
            raise errors.pop()
        return await devices.store.remove_stale_devices(tenant_id, after)

    stale_devices = StaleDevices(devices.database.owner.fetch, remove)
    for _ in range(3):
        await stale_devices.step()

    assert await devices.stored() == [("acme", "a"), *stays, ("globex", "a")]


@pytest.mark.single_node("a call inside a transaction is not delegated on Citus")
async def test_labels_stay_when_the_device_returns_during_the_removal(devices: Devices) -> None:
    """The removal waits for the row, and then looks for the device again."""
    database = devices.database
    await devices.add("acme", "a", "b")
    await devices.remove("acme", "b")
    async with rows_locked(database, "jobs.devices", tenant_id="acme", device_id="b"):
        removal = await database.blocked(devices.store.remove_stale_devices("acme", ""))
        await database.add_devices("acme", ["b"])
    await removal

    assert await devices.stored() == [("acme", "a"), ("acme", "b")]


@pytest.mark.single_node("a call inside a transaction is not delegated on Citus")
async def test_labels_that_were_not_locked_stay_when_facts_are_removed(devices: Devices) -> None:
    """The device is registered and gets labels after the removal has not found it."""
    database = devices.database
    await devices.add("acme", "a")
    await devices.execute("INSERT INTO jobs.device_facts VALUES ('acme', 'b', '{}', now())")
    pause = "BEGIN PERFORM pg_advisory_xact_lock(1);"
    async with (
        edited_function(database, "delete_stale_rows", "BEGIN", pause),
        connected(database.owner_dsn) as holder,
    ):
        await holder.execute("SELECT pg_advisory_lock(1)")
        removal = await database.blocked(devices.store.remove_stale_devices("acme", ""))
        await devices.add("acme", "b")
        await holder.execute("SELECT pg_advisory_unlock(1)")
        await removal

    assert await devices.stored() == [("acme", "a"), ("acme", "b")]
    assert await database.owner.fetchval("SELECT count(*) FROM jobs.device_facts") == 0


async def test_sweeper_examines_devices_in_its_cleanup(devices: Devices) -> None:
    await devices.add("acme", "a", "b")
    await devices.remove("acme", "b")

    remove = devices.store.remove_stale_devices
    async with Sweeper(devices.database.owner_dsn, remove_stale_devices=remove) as sweeper:
        await sweeper.run_cleanup()

    assert await devices.stored() == [("acme", "a")]
