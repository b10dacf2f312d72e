"""PauseJob and ResumeJob, alone and concurrent with starts."""

import asyncio

import pytest
from fleet.jobs.v1 import jobs_pb2 as pb
from grpc import StatusCode

from tests.support.callers import Device, Operator
from tests.support.database import Database, uncommitted
from tests.support.failures import expect_failure
from tests.support.server import Server

FAILED_PRECONDITION = StatusCode.FAILED_PRECONDITION


@pytest.fixture
async def pump(database: Database, server: Server, operator: Operator) -> Device:
    """The device "pump"; it and "valve" have a QUEUED execution of job "j"."""
    await database.add_devices(operator.tenant, ["pump", "valve"])
    await operator.create(job_id="j", target_all=True)
    return server.device(operator.tenant, "pump")


async def test_pause_returns_the_paused_job_with_its_expiry(
    operator: Operator, pump: Device
) -> None:
    before = await operator.get("j")

    job = await operator.pause("j", reason="error rate")

    assert job.status == pb.Job.PAUSED
    assert (job.pause.reason, job.pause.paused_by) == ("error rate", "olivia")
    assert job.updated_at == job.pause.paused_at
    assert job.expires_at == before.expires_at
    assert job.execution_counts == pb.ExecutionCounts(queued=2)
    assert job.etag != before.etag
    read = await operator.get("j", executions_limit=0)
    read.next_executions_page_token = ""
    assert read == job


async def test_reason_defaults_to_paused_by_operator_and_unknown_user_is_unset(
    server: Server, operator: Operator, pump: Device
) -> None:
    job = await server.operator(operator.tenant).pause("j")

    assert job.pause.reason == "paused by operator"
    assert not job.pause.HasField("paused_by")


async def test_device_cannot_start_when_job_is_paused(operator: Operator, pump: Device) -> None:
    await operator.pause("j")

    assert await pump.start_next() is None
    assert not (await pump.pending()).executions
    with expect_failure(FAILED_PRECONDITION, "JOB_PAUSED") as failure:
        await pump.start("j")
    assert failure.message == "Job j is paused; start it after it is resumed"
    assert failure.metadata == {"jobId": "j"}
    with expect_failure(FAILED_PRECONDITION, "JOB_PAUSED"):
        await pump.update("j", "IN_PROGRESS")
    assert (await pump.get("j")).status == pb.JobExecution.QUEUED
    assert (await operator.get("j")).execution_counts == pb.ExecutionCounts(queued=2)


async def test_start_next_goes_on_to_another_job_when_job_is_paused(
    operator: Operator, pump: Device
) -> None:
    await operator.create(job_id="second", target_all=True)
    await operator.pause("j")

    started = await pump.start_next()

    assert started is not None
    assert started.job_id == "second"


async def test_running_device_continues_and_reports_when_job_is_paused(
    operator: Operator, pump: Device
) -> None:
    started = await pump.start("j")
    await operator.pause("j")

    assert [e.job_id for e in (await pump.pending()).executions] == ["j"]
    assert await pump.start_next() == started
    assert (await pump.update("j", "IN_PROGRESS")).version == 3
    assert (await pump.update("j", "SUCCEEDED")).status == pb.JobExecution.SUCCEEDED


@pytest.mark.parametrize("status", ["SUCCEEDED", "FAILED", "REJECTED"])
async def test_device_can_end_an_execution_that_it_never_started_when_job_is_paused(
    operator: Operator, pump: Device, status: str
) -> None:
    await operator.pause("j")

    execution = await pump.update("j", status)

    assert execution.status == pb.JobExecution.Status.Value(status)
    assert not execution.HasField("started_at")


async def test_device_starts_again_when_job_is_resumed(operator: Operator, pump: Device) -> None:
    paused = await operator.pause("j")

    job = await operator.resume("j")

    assert job.status == pb.Job.IN_PROGRESS
    assert not job.HasField("pause")
    assert job.updated_at.ToNanoseconds() > paused.updated_at.ToNanoseconds()
    assert job.etag not in ("", paused.etag)
    started = await pump.start_next()
    assert started is not None
    assert started.job_id == "j"


async def test_repeated_pause_and_resume_change_nothing(operator: Operator, pump: Device) -> None:
    first = await operator.pause("j", reason="the first")
    assert await operator.pause("j", reason="the second") == first

    resumed = await operator.resume("j")
    assert await operator.resume("j") == resumed


async def test_call_with_an_old_etag_is_rejected(operator: Operator, pump: Device) -> None:
    first = await operator.pause("j")
    await operator.resume("j", etag=first.etag)
    second = await operator.pause("j")

    with expect_failure(StatusCode.ABORTED, "JOB_CHANGED") as failure:
        await operator.resume("j", etag=first.etag)
    assert failure.metadata == {"jobId": "j", "etag": second.etag, "status": "PAUSED"}
    assert failure.message == (
        f"Job j has changed: its etag is {second.etag}, its status is PAUSED; read it, then call"
        " with its etag"
    )
    with expect_failure(StatusCode.ABORTED, "JOB_CHANGED"):
        await operator.pause("j", etag="made up")

    job = await operator.get("j")
    assert (job.status, job.etag) == (pb.Job.PAUSED, second.etag)


async def test_reports_do_not_change_the_etag(operator: Operator, pump: Device) -> None:
    before = await operator.get("j")

    await pump.update("j", "SUCCEEDED")

    assert (await operator.get("j")).etag == before.etag


async def test_pause_and_resume_are_rejected_when_job_is_finished(
    database: Database, operator: Operator, pump: Device
) -> None:
    await operator.create(job_id="canceled", target_all=True)
    await operator.pause("canceled")
    await operator.cancel("canceled")
    await database.expire(operator.tenant, "j")

    for job_id, status in (("canceled", "CANCELED"), ("j", "COMPLETED")):
        with expect_failure(FAILED_PRECONDITION, "JOB_NOT_PAUSABLE") as failure:
            await operator.pause(job_id)
        assert failure.message == f"Cannot pause job {job_id} in status {status}"
        assert failure.metadata == {"jobId": job_id, "status": status}
        with expect_failure(FAILED_PRECONDITION, "JOB_NOT_RESUMABLE") as failure:
            await operator.resume(job_id)
        assert failure.message == f"Cannot resume job {job_id} in status {status}"
        assert failure.metadata == {"jobId": job_id, "status": status}


async def test_pause_and_resume_are_rejected_when_job_does_not_exist(operator: Operator) -> None:
    with expect_failure(StatusCode.NOT_FOUND, "JOB_NOT_FOUND"):
        await operator.pause("missing")
    with expect_failure(StatusCode.NOT_FOUND, "JOB_NOT_FOUND"):
        await operator.resume("missing")


async def test_pause_is_rejected_when_reason_or_etag_is_invalid(operator: Operator) -> None:
    with expect_failure(StatusCode.INVALID_ARGUMENT, "INVALID_FIELD") as failure:
        await operator.pause("j", reason="r" * 1001, etag="e" * 65)

    assert failure.violations.keys() == {"reason", "etag"}


async def test_paused_job_is_canceled_with_its_queued_executions(
    operator: Operator, pump: Device
) -> None:
    await operator.pause("j", reason="error rate")

    await operator.cancel("j")

    job = await operator.get("j")
    assert job.status == pb.Job.CANCELED
    assert job.execution_counts == pb.ExecutionCounts(rejected=2)
    assert job.pause.reason == "error rate"


async def test_delete_is_rejected_when_job_is_paused(operator: Operator, pump: Device) -> None:
    await operator.pause("j")

    with expect_failure(FAILED_PRECONDITION, "JOB_NOT_DELETABLE") as failure:
        await operator.delete("j")
    assert failure.message == "Cannot delete job j in status PAUSED; cancel it first"
    assert failure.metadata == {"jobId": "j", "status": "PAUSED"}


async def test_paused_job_expires_and_is_paused_again_when_it_is_retried(
    database: Database, operator: Operator, pump: Device
) -> None:
    await operator.pause("j")
    await database.expire(operator.tenant, "j")

    job = await operator.get("j")
    assert job.status == pb.Job.COMPLETED
    assert job.execution_counts == pb.ExecutionCounts(timed_out=2)
    assert job.updated_at == job.expires_at
    assert job.HasField("pause")

    await operator.retry("j", "TIMED_OUT", never_expires=True)

    job = await operator.get("j")
    assert job.status == pb.Job.PAUSED
    assert await pump.start_next() is None
    await operator.resume("j")
    assert await pump.start_next() is not None


async def test_paused_job_completes_when_its_last_execution_finishes(
    server: Server, operator: Operator, pump: Device
) -> None:
    await pump.start("j")
    await operator.pause("j")
    await server.device(operator.tenant, "valve").update("j", "SUCCEEDED")

    await pump.update("j", "SUCCEEDED")

    assert (await operator.get("j")).status == pb.Job.COMPLETED


async def test_list_filters_by_paused(operator: Operator, pump: Device) -> None:
    await operator.create(job_id="running", target_all=True)
    await operator.create(job_id="done", target_all=True)
    await operator.cancel("done")
    await operator.pause("j")

    async def listed(*statuses: str) -> list[str]:
        return [job.job_id for job in (await operator.list(statuses=statuses)).jobs]

    assert await listed("PAUSED") == ["j"]
    assert await listed("IN_PROGRESS") == ["running"]
    assert await listed("IN_PROGRESS", "PAUSED") == ["running", "j"]
    assert await listed("CANCELED", "COMPLETED") == ["done"]


async def test_pause_writes_no_execution_rows(database: Database, operator: Operator) -> None:
    await database.add_devices(operator.tenant, 500)
    await operator.create(job_id="a", target_all=True)
    versions = "SELECT array_agg(xmin::text) FROM jobs.job_executions WHERE tenant_id = $1"
    before = await database.owner.fetchval(versions, operator.tenant)

    await operator.pause("a")
    await operator.resume("a")

    assert await database.owner.fetchval(versions, operator.tenant) == before


PAUSE = "SELECT jobs.pause_job($1, 'j', 'r', NULL, '')"
RESUME = "SELECT jobs.resume_job($1, 'j', '')"
START = (
    "SELECT jobs.update_executions($1, 1000, '{j}', '{f}', '{pump}', '{NULL}', '{NULL}', '{NULL}',"
    " '{NULL}', '{NULL}', '{f}', '{NULL}')"
)


@pytest.mark.single_node("a call inside a transaction is not delegated on Citus")
async def test_start_is_rejected_when_it_waits_for_a_pause(
    database: Database, operator: Operator, pump: Device
) -> None:
    async with uncommitted(database, PAUSE, operator.tenant):
        starting = asyncio.create_task(pump.start("j"))
        await database.wait_for_blocked_sessions(1)
    with expect_failure(FAILED_PRECONDITION, "JOB_PAUSED"):
        await starting

    assert (await operator.get("j")).execution_counts == pb.ExecutionCounts(queued=2)


@pytest.mark.single_node("a call inside a transaction is not delegated on Citus")
async def test_start_next_chooses_again_when_it_waits_for_a_pause(
    database: Database, operator: Operator, pump: Device
) -> None:
    await operator.create(job_id="second", target_all=True)
    async with uncommitted(database, PAUSE, operator.tenant):
        starting = asyncio.create_task(pump.start_next())
        await database.wait_for_blocked_sessions(1)

    started = await starting

    assert started is not None
    assert started.job_id == "second"


@pytest.mark.single_node("a call inside a transaction is not delegated on Citus")
async def test_start_succeeds_when_it_waits_for_a_resume(
    database: Database, operator: Operator, pump: Device
) -> None:
    await operator.pause("j")
    async with uncommitted(database, RESUME, operator.tenant):
        starting = asyncio.create_task(pump.start("j"))
        await database.wait_for_blocked_sessions(1)

    assert (await starting).status == pb.JobExecution.IN_PROGRESS


@pytest.mark.single_node("a call inside a transaction is not delegated on Citus")
async def test_start_that_a_pause_waits_for_succeeds(
    database: Database, operator: Operator, pump: Device
) -> None:
    async with uncommitted(database, START, operator.tenant):
        pausing = asyncio.create_task(operator.pause("j"))
        await database.wait_for_blocked_sessions(1)
    job = await pausing

    assert job.status == pb.Job.PAUSED
    assert (await operator.get("j")).execution_counts == pb.ExecutionCounts(queued=1, in_progress=1)
    with expect_failure(FAILED_PRECONDITION, "JOB_PAUSED"):
        await (Device(pump.stub, pump.tenant, "valve")).start("j")


@pytest.mark.single_node("a call inside a transaction is not delegated on Citus")
async def test_second_of_two_concurrent_pauses_keeps_the_first_reason(
    database: Database, operator: Operator, pump: Device
) -> None:
    async with uncommitted(database, PAUSE, operator.tenant):
        second = asyncio.create_task(operator.pause("j", reason="the second"))
        await database.wait_for_blocked_sessions(1)

    assert (await second).pause.reason == "r"
