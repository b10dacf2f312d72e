"""DeleteDevices: what it removes, which executions it ends, and races with other calls."""

from typing import Any

import pytest
from fleet.jobs.v1 import jobs_pb2 as pb
from fleet.jobs.v1.fleet_pb2 import Device

from tests.support.database import request_session, rows_locked, uncommitted
from tests.support.failures import expect_error
from tests.support.world import World

Counts = pb.ExecutionCounts


@pytest.fixture(autouse=True)
async def devices(world: World) -> None:
    await world.add_devices(["pump", "valve"], group="all")


async def test_device_is_gone_with_labels_and_groups(world: World) -> None:
    labeled = Device(device_id="pump", labels={"model": "x200"}, time_zone="UTC")
    await world.fleet.update(labeled, mask=["labels", "time_zone"])

    response = await world.fleet.delete("pump", "unknown", "pump")

    assert (response.deleted_count, response.ended_execution_count) == (1, 0)
    assert not response.has_more
    await expect_error("DEVICE_NOT_FOUND", world.fleet.get("pump"))
    assert [group.device_count for group in (await world.fleet.groups()).groups] == [1]
    assert (await world.operator.create(target_all=True)).execution_count == 1
    # A new device with the same id has nothing of the old one.
    await world.fleet.update(Device(device_id="pump"), mask=["labels"], allow_missing=True)
    assert (await world.fleet.get("pump")).device == Device(device_id="pump")


async def test_queued_executions_end_as_rejected_and_jobs_complete(world: World) -> None:
    await world.create("both")
    await world.create("pump-only", target_device_id="pump")

    response = await world.fleet.delete("pump")

    assert response.ended_execution_count == 2
    both = await world.operator.get("both")
    assert both.status == pb.Job.IN_PROGRESS
    assert both.execution_counts == Counts(queued=1, rejected=1)
    ended = both.executions[0]
    assert (ended.device_id, ended.status) == ("pump", pb.JobExecution.REJECTED)
    assert ended.status_details == {"reason": "device deleted"}
    assert (ended.end_cause, ended.version) == (pb.JobExecution.DEVICE_DELETED, 2)
    assert not ended.HasField("failure_code")
    assert (await world.operator.get("pump-only")).status == pb.Job.COMPLETED
    assert (await world.fleet.delete("pump")).ended_execution_count == 0


async def test_ended_executions_of_canceled_and_expired_jobs_stay(world: World) -> None:
    """Their QUEUED rows are REJECTED and TIMED_OUT already, as readers see them."""
    for job in ("canceled", "expired"):
        await world.create(job, target_device_id="pump")
    await world.operator.cancel("canceled", reason="mistake")
    await world.expire("expired")

    assert (await world.fleet.delete("pump")).ended_execution_count == 0

    assert (await world.operator.get("canceled")).executions[0].status_details == {
        "reason": "mistake"
    }
    assert await world.operator.counts("expired") == {"timed_out": 1}


async def test_call_ends_at_most_1000_executions_and_says_that_more_remain(world: World) -> None:
    for n in range(3):
        await world.create(f"j{n}", target_device_id="pump")
    limits: dict[str, Any] = {"device_ids": ["pump"], "max_executions": 2, "wait_ms": 1000}
    async with request_session(world.database) as (_, store):
        first, second = [await store.delete_devices(world.tenant, **limits) for _ in range(2)]

    columns = ("deleted_count", "ended_count", "has_more")
    assert [first[column] for column in columns] == [1, 2, True]
    assert [second[column] for column in columns] == [0, 1, False]


async def test_devices_of_the_platform_stay(world: World) -> None:
    await world.database.owner.execute("UPDATE jobs.device_tables SET is_own = false")
    try:
        await expect_error("DEVICES_READ_ONLY", world.fleet.delete("pump"))
    finally:
        await world.database.owner.execute("UPDATE jobs.device_tables SET is_own = true")
    await world.fleet.get("pump")


@pytest.mark.single_node("a call inside a transaction is not delegated on Citus")
async def test_repeated_call_ends_what_a_concurrent_create_has_added(world: World) -> None:
    """CreateJob has read the device before it is removed, and commits afterwards."""
    create = """
        SELECT * FROM jobs.create_job(
            $1, 'j', '{"document_type": "reboot", "target_all": true}', '{}', NULL, 10, NULL, 24)
    """
    async with uncommitted(world.database, create, world.tenant):
        first = await world.fleet.delete("pump")

    assert (first.deleted_count, first.ended_execution_count) == (1, 0)
    assert await world.operator.counts() == {"queued": 2}
    second = await world.fleet.delete("pump")
    assert (second.deleted_count, second.ended_execution_count) == (0, 1)
    assert await world.operator.counts() == {"queued": 1, "rejected": 1}


async def test_execution_that_starts_first_is_not_ended(world: World) -> None:
    """DeleteDevices waits for the job lock and then reads the execution again."""
    await world.create()
    calls = world.device("pump").start("j"), world.fleet.delete("pump")
    start, deletion = await world.lock_in_order(*calls)
    await start

    assert (await deletion).ended_execution_count == 0
    assert await world.operator.counts() == {"in_progress": 1, "queued": 1}


@pytest.mark.single_node("a call inside a transaction is not delegated on Citus")
async def test_device_is_registered_after_a_deletion_that_holds_its_row(world: World) -> None:
    """The new device does not lose the labels that the same call gave it."""
    await world.fleet.update(Device(device_id="pump", labels={"old": ""}), mask=["labels"])
    registered = Device(device_id="pump", labels={"new": ""})
    register = world.fleet.update(registered, mask=["labels"], allow_missing=True)
    async with request_session(world.database) as (connection, store):
        async with connection.transaction():
            await store.delete_devices(
                world.tenant, device_ids=["pump"], max_executions=1000, wait_ms=1000
            )
            update = await world.blocked(register)
        assert (await update).registered_count == 1

    assert (await world.fleet.get("pump")).device.labels == {"new": ""}


async def test_device_that_is_registered_during_a_deletion_stays(world: World) -> None:
    """The deletion has no lock on it, so it could deadlock with other calls."""
    registered = Device(device_id="new", labels={"k": "v"}, group_ids=["g"])
    async with rows_locked(
        world.database, "device_state", tenant_id=world.tenant, device_id="pump"
    ):
        deletion = await world.blocked(world.fleet.delete("pump", "new"))
        await world.fleet.update(registered, mask=["labels", "group_ids"], allow_missing=True)

    assert (await deletion).deleted_count == 1
    assert (await world.fleet.get("new")).device == registered


async def test_labels_and_groups_of_an_unregistered_device_are_removed(world: World) -> None:
    await world.execute("DELETE FROM device_state WHERE tenant_id = $1 AND device_id = 'pump'")
    await world.database.add_labels(world.tenant, {"pump": {"k": "v"}, "valve": {"k": "v"}})

    assert (await world.fleet.delete("valve", "pump")).deleted_count == 1

    for table in ("device_group_members", "jobs.devices"):
        rows = f"SELECT FROM {table} WHERE tenant_id = $1"
        assert await world.rows(rows) == []
