"""ListPendingExecutions, StartNextExecution and StartExecution."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from fleet.jobs.v1 import jobs_pb2 as pb
from grpc import StatusCode

from jobs_grpc.db.store import ExecutionUpdate
from tests.support.callers import Device, Operator
from tests.support.database import Database, job_lock_held, send_batch
from tests.support.failures import expect_error
from tests.support.server import Server
from tests.support.world import World

FAILED_PRECONDITION = StatusCode.FAILED_PRECONDITION
QUEUED, IN_PROGRESS = pb.JobExecution.QUEUED, pb.JobExecution.IN_PROGRESS
CANCEL = "SELECT jobs.cancel_job($1, 'j', 'no')"
NEXT = ExecutionUpdate(None, "pump", None, must_be_next=True)
CALLS: dict[str, Callable[[Device], Coroutine[Any, Any, Any]]] = {
    "start": lambda device: device.start("j"),
    "report": lambda device: device.update("j", "SUCCEEDED"),
    "start next": lambda device: device.start_next(),
}


@pytest.fixture
async def device(database: Database, server: Server, tenant: str) -> Device:
    """The only device of the test's tenant."""
    await database.add_devices(tenant, ["pump"])
    return server.device(tenant, "pump")


async def test_pending_executions_are_listed_oldest_first_with_their_documents(
    device: Device, operator: Operator
) -> None:
    for job_id in ("first", "second", "third"):
        await operator.create(
            job_id=job_id, target_all=True, document_type=f"do-{job_id}", document_params={"n": 5}
        )

    pending = await device.pending()

    assert [execution.job_id for execution in pending.executions] == ["first", "second", "third"]
    first = pending.executions[0]
    assert first.document_type == "do-first"
    assert first.document_params == {"n": 5}
    assert (first.status, first.version, first.execution_number) == (QUEUED, 1, 1)
    assert first.HasField("expires_at")
    assert not first.HasField("started_at")


async def test_finished_executions_are_not_pending(world: World, device: Device) -> None:
    for job_id in ("finished", "canceled", "expired", "queued"):
        await world.operator.create(job_id=job_id, target_all=True)
    await device.update("finished", "SUCCEEDED")
    await world.operator.cancel("canceled")
    await world.database.expire(device.tenant, "expired")

    pending = await device.pending()

    assert [execution.job_id for execution in pending.executions] == ["queued"]


async def test_start_next_starts_the_oldest_queued_execution_once(
    device: Device, operator: Operator
) -> None:
    await operator.create(job_id="first", target_all=True, document_params={"n": 1})
    await operator.create(job_id="second", target_all=True)

    started = await device.start_next(status_details={"step": "download"})

    assert started is not None
    assert (started.job_id, started.status, started.version) == ("first", IN_PROGRESS, 2)
    assert started.document_params == {"n": 1}
    assert started.status_details == {"step": "download"}
    assert started.HasField("started_at")
    assert await device.start_next(status_details={"ignored": True}) == started
    job = await operator.get("first")
    assert job.execution_counts == pb.ExecutionCounts(in_progress=1)
    assert job.executions[0].status == IN_PROGRESS


async def test_start_next_returns_no_execution_when_none_is_pending(
    device: Device, operator: Operator
) -> None:
    assert await device.start_next() is None

    await operator.create(job_id="j", target_all=True)
    await operator.cancel("j")

    assert await device.start_next() is None


async def test_start_starts_the_execution_of_a_given_job_once(world: World, device: Device) -> None:
    await world.operator.create(job_id="first", target_all=True)
    await world.operator.create(job_id="second", target_all=True)

    started = await device.start("second")

    assert (started.job_id, started.status) == ("second", IN_PROGRESS)
    assert await device.start("second") == started == await device.get("second")


@pytest.mark.parametrize("status", ["REJECTED", "TIMED_OUT", "SUCCEEDED"])
async def test_start_is_rejected_when_execution_is_finished(
    database: Database, device: Device, operator: Operator, status: str
) -> None:
    await operator.create(job_id="j", target_all=True)
    match status:
        case "REJECTED":
            await operator.cancel("j")
        case "TIMED_OUT":
            await database.expire(device.tenant, "j")
        case _:
            await device.update("j", status)

    failure = await expect_error("EXECUTION_FINISHED", device.start("j"))

    assert failure.metadata == {"jobId": "j", "deviceId": "pump", "status": status}
    assert (
        failure.message == f"The execution of job j on device pump is finished in status {status}"
    )


async def test_executions_of_other_devices_and_tenants_are_not_found(
    server: Server, device: Device, operator: Operator
) -> None:
    await operator.create(job_id="j", target_all=True)

    for other in (server.device(device.tenant, "other"), server.device("other-tenant", "pump")):
        for call in (other.start("j"), other.get("j"), other.update("j", "SUCCEEDED")):
            await expect_error("EXECUTION_NOT_FOUND", call)
        assert await other.start_next() is None
        assert not (await other.pending()).executions


@pytest.mark.single_node("a call inside a transaction is not delegated on Citus")
@pytest.mark.parametrize(
    ("statement", "reason"),
    [
        (CANCEL, "EXECUTION_FINISHED"),
        (f"{CANCEL}, jobs.delete_job($1, 'j')", "EXECUTION_NOT_FOUND"),
    ],
    ids=["cancel", "delete"],
)
@pytest.mark.parametrize("call", CALLS)
async def test_device_does_not_change_a_job_that_a_concurrent_cancel_or_delete_ends_first(
    world: World, device: Device, call: str, statement: str, reason: str
) -> None:
    """The job was still IN_PROGRESS when the call began: start next goes on to another job."""
    await world.operator.create(job_id="j", target_all=True)
    await world.operator.create(job_id="next", target_all=True)
    calling = await world.wait_for_commit(CALLS[call](device), statement)

    if call == "start next":
        assert (await calling).job_id == "next"
    else:
        await expect_error(reason, calling)


@pytest.mark.single_node("a call inside a transaction is not delegated on Citus")
async def test_start_next_returns_again_instead_of_locking_a_second_job(
    world: World, device: Device, operator: Operator
) -> None:
    """So two starts that go on to a second job cannot deadlock."""
    await operator.create(job_id="z", target_all=True)
    await operator.create(job_id="a", target_all=True)
    start_next = send_batch(world.database, device.tenant, NEXT)
    cancel = CANCEL.replace("'j'", "'z'")
    (row,) = await (await world.wait_for_commit(start_next, cancel))

    assert (row["outcome"], row["job_id"]) == ("AGAIN", "z")
    assert (await device.get("a")).status == QUEUED


@pytest.mark.parametrize("call", CALLS)
async def test_device_does_not_change_a_job_that_expires_while_the_call_waits_for_the_lock(
    database: Database, device: Device, operator: Operator, call: str
) -> None:
    """The call begins before the expiry but gets the job lock after it."""
    await operator.create(job_id="j", target_all=True)
    async with job_lock_held(database, device.tenant, "j"):
        calling = await database.blocked(CALLS[call](device))
        await database.owner.execute(
            "UPDATE jobs.jobs SET expires_at = (SELECT clock_timestamp()) WHERE tenant_id = $1",
            device.tenant,
        )

    if call == "start next":
        assert await calling is None
    else:
        failure = await expect_error("EXECUTION_FINISHED", calling)
        assert failure.metadata["status"] == "TIMED_OUT"
    assert (await operator.get("j")).execution_counts == pb.ExecutionCounts(timed_out=1)


async def test_two_concurrent_starts_start_one_execution(
    database: Database, device: Device, operator: Operator
) -> None:
    """As if through two servers, because one server would apply them in one batch."""
    await operator.create(job_id="first", target_all=True)
    await operator.create(job_id="second", target_all=True)
    async with job_lock_held(database, device.tenant, "first"):
        starts = [asyncio.create_task(send_batch(database, device.tenant, NEXT)) for _ in range(2)]
        await database.wait_for_blocked_sessions(2)
    rows = [row for start in starts for row in await start]

    assert sorted(row["outcome"] for row in rows) == ["APPLIED", "REPEATED"]
    assert {(row["job_id"], row["version"]) for row in rows} == {("first", 2)}
    assert (await operator.get("first")).execution_counts == pb.ExecutionCounts(in_progress=1)
    assert (await operator.get("second")).execution_counts == pb.ExecutionCounts(queued=1)
