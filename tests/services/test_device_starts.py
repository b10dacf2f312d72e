"""ListPendingExecutions, StartNextExecution and StartExecution."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from fleet.jobs.v1 import jobs_pb2 as pb
from grpc import StatusCode

from jobs_grpc.db.store import ExecutionUpdate
from tests.support.callers import Device
from tests.support.database import send_batch
from tests.support.failures import expect_error
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


@pytest.fixture(autouse=True)
async def device(world: World) -> None:
    await world.add_devices(["pump"])


async def test_pending_executions_are_listed_oldest_first_with_documents(world: World) -> None:
    for job_id in ("first", "second", "third"):
        await world.create(job_id, document_type=f"do-{job_id}", document_params={"n": 5})

    pending = await world.pump.pending()

    assert [execution.job_id for execution in pending.executions] == ["first", "second", "third"]
    first = pending.executions[0]
    assert first.document_type == "do-first"
    assert first.document_params == {"n": 5}
    assert (first.status, first.version, first.execution_number) == (QUEUED, 1, 1)
    assert first.HasField("expires_at")
    assert not first.HasField("started_at")


async def test_start_next_starts_the_oldest_queued_execution_once(world: World) -> None:
    await world.create("first", document_params={"n": 1})
    await world.create("second")

    started = await world.pump.start_next(status_details={"step": "download"})

    assert started is not None
    assert (started.job_id, started.status, started.version) == ("first", IN_PROGRESS, 2)
    assert started.document_params == {"n": 1}
    assert started.status_details == {"step": "download"}
    assert started.HasField("started_at")
    assert await world.pump.start_next(status_details={"ignored": True}) == started
    job = await world.operator.get("first")
    assert job.execution_counts == pb.ExecutionCounts(in_progress=1)
    assert job.executions[0].status == IN_PROGRESS


async def test_start_starts_the_execution_of_a_given_job_once(world: World) -> None:
    await world.create("first", "second")

    started = await world.pump.start("second")

    assert (started.job_id, started.status) == ("second", IN_PROGRESS)
    assert await world.pump.start("second") == started == await world.pump.get("second")


@pytest.mark.parametrize("status", ["REJECTED", "TIMED_OUT", "SUCCEEDED"])
async def test_start_is_rejected_when_execution_is_finished(world: World, status: str) -> None:
    await world.create()
    match status:
        case "REJECTED":
            await world.operator.cancel("j")
        case "TIMED_OUT":
            await world.expire()
        case _:
            await world.pump.update("j", status)

    failure = await expect_error("EXECUTION_FINISHED", world.pump.start("j"))

    assert failure.metadata == {"jobId": "j", "deviceId": "pump", "status": status}
    assert (
        failure.message == f"The execution of job j on device pump is finished in status {status}"
    )


async def test_executions_of_other_devices_and_tenants_are_not_found(world: World) -> None:
    await world.create()

    for other in (world.device("other"), world.server.device("other-tenant", "pump")):
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
    world: World, call: str, statement: str, reason: str
) -> None:
    """The job was still IN_PROGRESS when the call began: start next goes on to another job."""
    await world.create()
    await world.create("next")
    calling = await world.wait_for_commit(CALLS[call](world.pump), statement)

    if call == "start next":
        assert (await calling).job_id == "next"
    else:
        await expect_error(reason, calling)


@pytest.mark.single_node("a call inside a transaction is not delegated on Citus")
async def test_start_next_returns_again_instead_of_locking_a_second_job(world: World) -> None:
    """So two starts that go on to a second job cannot deadlock."""
    await world.create("z", "a")
    start_next = send_batch(world.database, world.tenant, NEXT)
    cancel = CANCEL.replace("'j'", "'z'")
    (row,) = await (await world.wait_for_commit(start_next, cancel))

    assert (row["outcome"], row["job_id"]) == ("AGAIN", "z")
    assert (await world.pump.get("a")).status == QUEUED


@pytest.mark.parametrize("call", CALLS)
async def test_device_does_not_change_a_job_that_expires_while_the_call_waits_for_the_lock(
    world: World, call: str
) -> None:
    """The call begins before the expiry but gets the job lock after it."""
    await world.create()
    async with world.lock_held():
        calling = await world.blocked(CALLS[call](world.pump))
        await world.execute(
            "UPDATE jobs.jobs SET expires_at = (SELECT clock_timestamp()) WHERE tenant_id = $1"
        )

    if call == "start next":
        assert await calling is None
    else:
        failure = await expect_error("EXECUTION_FINISHED", calling)
        assert failure.metadata["status"] == "TIMED_OUT"
    assert await world.operator.counts() == {"timed_out": 1}


async def test_two_concurrent_starts_start_one_execution(world: World) -> None:
    """As if through two servers, because one server would apply them in one batch."""
    await world.create("first", "second")
    async with world.lock_held("first"):
        starts = [
            asyncio.create_task(send_batch(world.database, world.tenant, NEXT)) for _ in range(2)
        ]
        await world.database.wait_for_blocked_sessions(2)
    rows = [row for start in starts for row in await start]

    assert sorted(row["outcome"] for row in rows) == ["APPLIED", "REPEATED"]
    assert {(row["job_id"], row["version"]) for row in rows} == {("first", 2)}
    assert await world.operator.counts("first") == {"in_progress": 1}
    assert await world.operator.counts("second") == {"queued": 1}
