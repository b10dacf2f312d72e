"""JOBS_MAX_TENANT_DEVICES, and the stored number of devices of a tenant."""

import asyncio
from collections.abc import Awaitable

import pytest
from fleet.jobs.v1.fleet_pb2 import Device

from jobs_grpc.db.store import Store
from tests.support.callers import Fleet
from tests.support.database import Database, request_session
from tests.support.failures import expect_error
from tests.support.world import World


@pytest.fixture(scope="module")
def server_settings() -> dict[str, str]:
    """Settings that allow three devices per tenant."""
    return {"JOBS_MAX_TENANT_DEVICES": "3"}


async def register(fleet: Fleet, *names: str) -> int:
    """Register the devices that do not exist, and return how many they were."""
    devices = [Device(device_id=name) for name in names]
    return (await fleet.update(*devices, allow_missing=True)).registered_count


async def stored_count(database: Database, tenant: str) -> int | None:
    """The stored number of devices; None: there is none."""
    count: int | None = await database.owner.fetchval(
        "SELECT device_count FROM jobs.device_counts WHERE tenant_id = $1", tenant
    )
    return count


async def register_as(store: Store, tenant: str, *names: str) -> None:
    """Register devices within the transaction of the store's session."""
    await store.update_devices(
        tenant,
        device_ids=list(names),
        labels=None,
        time_zones=None,
        group_ids=None,
        remove_labels=[],
        allow_missing=True,
        max_devices=3,
    )


async def expect_limit(call: Awaitable[object]) -> None:
    """Expect a call to fail with an error that names the setting."""
    failure = await expect_error("LIMIT_EXCEEDED", call)
    assert failure.message == (
        "The tenant would have too many devices; delete some (JOBS_MAX_TENANT_DEVICES is 3)"
    )
    assert failure.metadata == {"setting": "JOBS_MAX_TENANT_DEVICES", "value": "3"}


async def test_update_is_rejected_when_it_would_register_too_many_devices(world: World) -> None:
    assert await register(world.fleet, "a", "b") == 2
    await expect_limit(register(world.fleet, "b", "c", "d"))
    assert await register(world.fleet, "b", "c") == 1
    # Devices that exist can be changed.
    await world.fleet.update(Device(device_id="a", labels={"k": "v"}), mask=["labels"])
    assert await register(world.fleet, "a", "b", "c") == 0
    await expect_limit(register(world.fleet, "d"))

    await world.fleet.delete("a", "b", "unknown")

    assert await stored_count(world.database, world.tenant) == 1
    assert await register(world.fleet, "d", "e") == 2


async def test_update_that_would_register_too_many_devices_writes_nothing(world: World) -> None:
    await register(world.fleet, "a", "b")
    async with world.database.owner.transaction():
        # Writes would wait.
        await world.database.owner.execute("LOCK public.device_state IN SHARE MODE")

        await expect_limit(register(world.fleet, "b", "c", "d"))


async def test_first_call_counts_the_devices_that_exist(database: Database, fleet: Fleet) -> None:
    await database.add_devices(fleet.tenant, ["a", "b", "c"])

    await expect_limit(register(fleet, "d"))
    assert await stored_count(database, fleet.tenant) is None
    await fleet.delete("a")

    assert await stored_count(database, fleet.tenant) == 2


async def test_call_that_registers_no_device_does_not_wait_for_the_count(world: World) -> None:
    await register(world.fleet, "a", "b")
    async with world.database.owner.transaction():
        await world.database.owner.execute("LOCK jobs.device_counts IN EXCLUSIVE MODE")

        assert await register(world.fleet, "a", "b") == 0
        assert (await world.fleet.delete("unknown")).deleted_count == 0


@pytest.mark.single_node("a call inside a transaction is not delegated on Citus")
@pytest.mark.parametrize("first", ["commits", "rolls back"])
@pytest.mark.parametrize("counted", [True, False], ids=["counted", "not counted"])
async def test_racing_registrations_do_not_exceed_the_limit(
    database: Database, fleet: Fleet, first: str, counted: bool
) -> None:
    """The second call waits for the count until the first transaction ends."""
    if counted:
        await register(fleet, "a", "b")
    else:
        await database.add_devices(fleet.tenant, ["a", "b"])
    async with request_session(database) as (connection, store):
        transaction = connection.transaction()
        await transaction.start()
        await register_as(store, fleet.tenant, "c")
        second = await database.blocked(register(fleet, "d"))
        await (transaction.commit() if first == "commits" else transaction.rollback())

    if first == "commits":
        await expect_limit(second)
    else:
        assert await second == 1
    assert await stored_count(database, fleet.tenant) == 3


@pytest.mark.single_node("a call inside a transaction is not delegated on Citus")
async def test_calls_that_share_devices_and_the_count_do_not_deadlock(world: World) -> None:
    """The first holds a device and the count; the others wait for one of them."""
    await register(world.fleet, "old")
    async with request_session(world.database) as (connection, store), connection.transaction():
        await register_as(store, world.tenant, "b")
        both = asyncio.create_task(register(world.fleet, "a", "b"))
        await world.database.wait_for_blocked_sessions(1)  # holds a, waits for b
        deletion = asyncio.create_task(world.fleet.delete("old"))
        await world.database.wait_for_blocked_sessions(2)  # holds old, waits for the count
        await register_as(store, world.tenant, "b")
    assert await both == 1
    assert (await deletion).deleted_count == 1

    assert await stored_count(world.database, world.tenant) == 2


async def test_devices_of_the_platform_are_not_counted(database: Database, fleet: Fleet) -> None:
    await database.owner.execute("UPDATE jobs.device_tables SET is_own = false")
    try:
        counted = await database.owner.fetchval(
            "SELECT jobs.change_device_count($1, 1)", fleet.tenant
        )
    finally:
        await database.owner.execute("UPDATE jobs.device_tables SET is_own = true")

    assert counted is None
    assert await stored_count(database, fleet.tenant) is None


async def test_count_of_another_tenant_is_not_visible(database: Database, fleet: Fleet) -> None:
    await register(fleet, "a")
    async with request_session(database) as (request, _), request.transaction():
        await request.execute("SELECT set_config('app.tenant_id', 'other', true)")
        assert await request.fetch("SELECT * FROM jobs.device_counts") == []
