"""DeleteDevices: what it removes, which executions it ends, and races with other calls."""

from typing import Any

import pytest
from fleet.jobs.v1 import jobs_pb2 as pb
from fleet.jobs.v1.fleet_pb2 import Device

from tests.support.callers import Fleet, Operator
from tests.support.database import Database, request_session, rows_locked, uncommitted
from tests.support.failures import expect_error
from tests.support.server import Server
from tests.support.staged_jobs import rollout
from tests.support.world import World

Counts = pb.ExecutionCounts


@pytest.fixture
async def fleet(database: Database, server: Server, tenant: str) -> Fleet:
    """A caller in the test's tenant, which has the devices "pump" and "valve"."""
    await database.add_devices(tenant, ["pump", "valve"], group="all")
    return server.fleet(tenant)


async def test_device_is_gone_with_labels_and_groups(fleet: Fleet, operator: Operator) -> None:
    labeled = Device(device_id="pump", labels={"model": "x200"}, time_zone="UTC")
    await fleet.update(labeled, mask=["labels", "time_zone"])

    response = await fleet.delete("pump", "unknown", "pump")

    assert (response.deleted_count, response.ended_execution_count) == (1, 0)
    assert not response.remaining
    await expect_error("DEVICE_NOT_FOUND", fleet.get("pump"))
    assert [group.device_count for group in (await fleet.groups()).groups] == [1]
    assert (await operator.create(target_all=True)).execution_count == 1
    # A new device with the same id has nothing of the old one.
    await fleet.update(Device(device_id="pump"), mask=["labels"], allow_missing=True)
    assert (await fleet.get("pump")).device == Device(device_id="pump")


async def test_queued_executions_end_as_rejected_and_jobs_complete(
    fleet: Fleet, operator: Operator
) -> None:
    await operator.create(job_id="both", target_all=True)
    await operator.create(job_id="pump-only", target_device_id="pump")

    response = await fleet.delete("pump")

    assert response.ended_execution_count == 2
    both = await operator.get("both")
    assert both.status == pb.Job.IN_PROGRESS
    assert both.execution_counts == Counts(queued=1, rejected=1)
    ended = both.executions[0]
    assert (ended.device_id, ended.status) == ("pump", pb.JobExecution.REJECTED)
    assert ended.status_details == {"reason": "device removed"}
    assert (ended.end_cause, ended.version) == (pb.JobExecution.DEVICE_REMOVED, 2)
    assert not ended.HasField("failure_code")
    assert (await operator.get("pump-only")).status == pb.Job.COMPLETED
    assert (await fleet.delete("pump")).ended_execution_count == 0


async def test_execution_in_progress_continues_and_can_be_reported(
    server: Server, fleet: Fleet, operator: Operator
) -> None:
    pump = server.device(fleet.tenant, "pump")
    await operator.create(job_id="j", target_device_id="pump")
    await pump.start("j")

    response = await fleet.delete("pump")

    assert response.ended_execution_count == 0
    assert await operator.counts() == {"in_progress": 1}
    await pump.update("j", "SUCCEEDED")
    assert await operator.status() == "COMPLETED"


async def test_ended_executions_of_canceled_and_expired_jobs_stay(
    database: Database, fleet: Fleet, operator: Operator
) -> None:
    """Their QUEUED rows are REJECTED and TIMED_OUT already, as readers see them."""
    for job in ("canceled", "expired"):
        await operator.create(job_id=job, target_device_id="pump")
    await operator.cancel("canceled", reason="mistake")
    await database.expire(fleet.tenant, "expired")

    assert (await fleet.delete("pump")).ended_execution_count == 0

    assert (await operator.get("canceled")).executions[0].status_details == {"reason": "mistake"}
    assert (await operator.get("expired")).execution_counts == Counts(timed_out=1)


async def staged(operator: Operator, **gate: Any) -> tuple[str, str]:
    """Create job "j" with two stages of one device; return the devices of both."""
    stages = rollout({"device_count": 1, "gate": pb.Gate(**gate)}, {"remainder": True})
    await operator.create(job_id="j", target_all=True, rollout=stages)
    first = (await operator.executions("j", stage=0)).executions[0].device_id
    return first, "valve" if first == "pump" else "pump"


async def test_held_executions_end_and_the_gate_counts_them_as_not_succeeded(
    fleet: Fleet, operator: Operator
) -> None:
    first, held = await staged(operator, min_succeeded_percent=100)

    assert (await fleet.delete(held)).ended_execution_count == 1
    stages = (await operator.get("j")).stages
    assert [s.execution_counts for s in stages] == [Counts(queued=1), Counts(rejected=1)]

    assert (await fleet.delete(first)).ended_execution_count == 1
    assert await operator.status() == "COMPLETED"


@pytest.mark.parametrize("gate", [{}, {"min_succeeded_percent": 100}])
async def test_next_stage_opens_or_its_gate_fails_when_all_devices_of_a_stage_are_removed(
    fleet: Fleet, operator: Operator, gate: dict[str, int]
) -> None:
    first, _ = await staged(operator, **gate)

    await fleet.delete(first)

    job = await operator.get("j")
    if gate:
        assert (job.status, job.pause.cause) == (pb.Job.PAUSED, pb.Pause.GATE_NOT_MET)
    else:
        assert job.execution_counts == Counts(queued=1, rejected=1)


async def test_removed_devices_do_not_trip_failure_criteria(world: World, fleet: Fleet) -> None:
    criterion = pb.FailureCriterion(count=1, action=pb.FailureCriterion.CANCEL)
    await world.operator.create(job_id="j", target_all=True, failure_criteria=[criterion])

    await fleet.delete("pump")

    assert await world.operator.status() == "IN_PROGRESS"


async def test_call_ends_at_most_1000_executions_and_says_that_more_remain(
    database: Database, fleet: Fleet, operator: Operator
) -> None:
    for n in range(3):
        await operator.create(job_id=f"j{n}", target_device_id="pump")
    limits: dict[str, Any] = {"device_ids": ["pump"], "max_executions": 2, "wait_ms": 1000}
    async with request_session(database) as (_, store):
        first, second = [await store.delete_devices(fleet.tenant, **limits) for _ in range(2)]

    columns = ("deleted_count", "ended_count", "remaining")
    assert [first[column] for column in columns] == [1, 2, True]
    assert [second[column] for column in columns] == [0, 1, False]


async def test_devices_of_the_platform_stay(database: Database, fleet: Fleet) -> None:
    await database.owner.execute("UPDATE jobs.device_tables SET is_own = false")
    try:
        await expect_error("DEVICES_READ_ONLY", fleet.delete("pump"))
    finally:
        await database.owner.execute("UPDATE jobs.device_tables SET is_own = true")
    await fleet.get("pump")


@pytest.mark.single_node("a call inside a transaction is not delegated on Citus")
async def test_repeated_call_ends_the_execution_that_a_concurrent_create_added(
    database: Database, fleet: Fleet, operator: Operator
) -> None:
    """CreateJob has read the device before it is removed, and commits afterwards."""
    create = """
        SELECT * FROM jobs.create_job(
            $1, 'j', '{"document_type": "reboot", "target_all": true}', '{}', NULL, 10, NULL, 24)
    """
    async with uncommitted(database, create, fleet.tenant):
        first = await fleet.delete("pump")

    assert (first.deleted_count, first.ended_execution_count) == (1, 0)
    assert await operator.counts() == {"queued": 2}
    second = await fleet.delete("pump")
    assert (second.deleted_count, second.ended_execution_count) == (0, 1)
    assert await operator.counts() == {"queued": 1, "rejected": 1}


async def test_execution_that_starts_first_is_not_ended(world: World, fleet: Fleet) -> None:
    """DeleteDevices waits for the job lock and then reads the execution again."""
    await world.operator.create(job_id="j", target_all=True)
    calls = world.device("pump").start("j"), fleet.delete("pump")
    start, deletion = await world.lock_in_order(*calls)
    await start

    assert (await deletion).ended_execution_count == 0
    assert await world.operator.counts() == {"in_progress": 1, "queued": 1}


@pytest.mark.single_node("a call inside a transaction is not delegated on Citus")
async def test_device_is_registered_after_a_deletion_that_holds_its_row(
    database: Database, fleet: Fleet
) -> None:
    """The new device does not lose the labels that the same call gave it."""
    await fleet.update(Device(device_id="pump", labels={"old": ""}), mask=["labels"])
    registered = Device(device_id="pump", labels={"new": ""})
    register = fleet.update(registered, mask=["labels"], allow_missing=True)
    async with request_session(database) as (connection, store):
        async with connection.transaction():
            await store.delete_devices(
                fleet.tenant, device_ids=["pump"], max_executions=1000, wait_ms=1000
            )
            update = await database.blocked(register)
        assert (await update).registered_count == 1

    assert (await fleet.get("pump")).device.labels == {"new": ""}


async def test_device_that_is_registered_during_a_deletion_stays(
    database: Database, fleet: Fleet
) -> None:
    """The deletion has no lock on it, so it could deadlock with other calls."""
    registered = Device(device_id="new", labels={"k": "v"}, group_ids=["g"])
    async with rows_locked(database, "device_state", tenant_id=fleet.tenant, device_id="pump"):
        deletion = await database.blocked(fleet.delete("pump", "new"))
        await fleet.update(registered, mask=["labels", "group_ids"], allow_missing=True)

    assert (await deletion).deleted_count == 1
    assert (await fleet.get("new")).device == registered


async def test_labels_and_groups_of_a_device_that_is_not_registered_are_removed(
    database: Database, fleet: Fleet
) -> None:
    await database.owner.execute(
        "DELETE FROM device_state WHERE tenant_id = $1 AND device_id = 'pump'", fleet.tenant
    )
    await database.add_labels(fleet.tenant, {"pump": {"k": "v"}, "valve": {"k": "v"}})

    assert (await fleet.delete("valve", "pump")).deleted_count == 1

    for table in ("device_group_members", "jobs.devices"):
        rows = f"SELECT FROM {table} WHERE tenant_id = $1"
        assert await database.owner.fetch(rows, fleet.tenant) == []
