"""PauseJob and ResumeJob, alone and concurrent with starts."""

import pytest
from fleet.jobs.v1 import jobs_pb2 as pb

from tests.support.callers import Device, Operator, all_pending
from tests.support.database import uncommitted
from tests.support.failures import expect_error, invalid_fields
from tests.support.world import World, uncommitted_report

SINGLE_NODE = pytest.mark.single_node("a call inside a transaction is not delegated on Citus")


@pytest.fixture
async def pump(world: World) -> Device:
    """The device "pump"; it and "valve" have a QUEUED execution of job "j"."""
    await world.add_devices(["pump", "valve"])
    await world.create()
    return world.device("pump")


async def test_pause_returns_the_paused_job(operator: Operator, pump: Device) -> None:
    before = await operator.get("j")

    job = await operator.pause("j", reason="error rate")

    assert job.status == pb.Job.PAUSED
    assert (job.pause.reason, job.pause.paused_by) == ("error rate", "olivia")
    assert job.pause.cause == (await operator.list()).jobs[0].pause.cause == pb.Pause.OPERATOR
    assert job.updated_at == job.pause.paused_at
    assert job.expires_at == before.expires_at
    assert job.execution_counts == pb.ExecutionCounts(queued=2)
    assert job.etag != before.etag
    read = await operator.get("j", executions_limit=0)
    read.next_executions_page_token = ""
    assert read == job


async def test_pause_has_no_reason_and_no_user_when_the_call_has_none(
    world: World, pump: Device
) -> None:
    pause = (await world.server.operator(world.tenant).pause("j")).pause

    assert (pause.reason, pause.HasField("paused_by")) == ("", False)


async def test_device_cannot_start_when_job_is_paused(operator: Operator, pump: Device) -> None:
    await operator.pause("j")

    assert await pump.start_next() is None
    assert await all_pending(pump) == []
    failure = await expect_error("JOB_PAUSED", pump.start("j"))
    assert failure.message == "Job j is paused; start it after it is resumed"
    assert failure.metadata == {"jobId": "j"}
    await expect_error("JOB_PAUSED", pump.update("j", "IN_PROGRESS"))
    assert (await pump.get("j")).status == pb.JobExecution.QUEUED
    assert await operator.counts() == {"queued": 2}


async def test_running_device_continues_in_a_paused_job(operator: Operator, pump: Device) -> None:
    started = await pump.start("j")
    await operator.pause("j")

    assert await all_pending(pump) == ["j"]
    assert await pump.start_next() == started
    assert (await pump.update("j", "IN_PROGRESS")).version == 3


async def test_device_starts_again_when_job_is_resumed(operator: Operator, pump: Device) -> None:
    paused = await operator.pause("j")

    job = await operator.resume("j")

    assert job.status == pb.Job.IN_PROGRESS
    assert not job.HasField("pause")
    assert job.updated_at.ToNanoseconds() > paused.updated_at.ToNanoseconds()
    assert job.etag not in ("", paused.etag)
    assert await pump.start_next_job() == "j"


async def test_repeated_pause_and_resume_change_nothing(operator: Operator, pump: Device) -> None:
    first = await operator.pause("j", reason="the first")
    assert await operator.pause("j", reason="the second") == first

    resumed = await operator.resume("j")
    assert await operator.resume("j") == resumed


async def test_call_with_an_old_etag_is_rejected(operator: Operator, pump: Device) -> None:
    first = await operator.pause("j")
    await operator.resume("j", etag=first.etag)
    second = await operator.pause("j")
    await pump.update("j", "SUCCEEDED")  # leaves the etag

    failure = await expect_error("JOB_CHANGED", operator.resume("j", etag=first.etag))
    assert failure.metadata == {"jobId": "j", "etag": second.etag, "status": "PAUSED"}
    assert failure.message == (
        f"Job j has changed: its etag is {second.etag}, its status is PAUSED; read it, then call"
        " with its etag"
    )
    await expect_error("JOB_CHANGED", operator.pause("j", etag="made up"))

    job = await operator.get("j")
    assert (job.status, job.etag) == (pb.Job.PAUSED, second.etag)


async def test_pause_and_resume_are_rejected_when_job_ended(world: World, pump: Device) -> None:
    await world.create("canceled")
    await world.operator.pause("canceled")
    await world.operator.cancel("canceled")
    await world.expire()
    await expect_error("JOB_NOT_FOUND", world.operator.pause("missing"))
    await expect_error("JOB_NOT_FOUND", world.operator.resume("missing"))

    for job_id, status in (("canceled", "CANCELED"), ("j", "COMPLETED")):
        for verb, reason, call in (
            ("pause", "JOB_NOT_PAUSABLE", world.operator.pause(job_id)),
            ("resume", "JOB_NOT_RESUMABLE", world.operator.resume(job_id)),
        ):
            failure = await expect_error(reason, call)
            assert failure.message == f"Cannot {verb} job {job_id} in status {status}"
            assert failure.metadata == {"jobId": job_id, "status": status}


async def test_pause_is_rejected_when_reason_or_etag_is_invalid(operator: Operator) -> None:
    pause = operator.pause("j", reason="r" * 1001, etag="e" * 65)

    assert await invalid_fields(pause) == ["reason", "etag"]


async def test_cancel_rejects_executions_of_a_paused_job(operator: Operator, pump: Device) -> None:
    await operator.pause("j", reason="error rate")
    failure = await expect_error("JOB_NOT_DELETABLE", operator.delete("j"))
    assert failure.message == "Cannot delete job j in status PAUSED; cancel it first"

    await operator.cancel("j")

    job = await operator.get("j")
    assert job.status == pb.Job.CANCELED
    assert job.execution_counts == pb.ExecutionCounts(rejected=2)
    assert job.pause.reason == "error rate"


async def test_paused_job_expires_and_is_paused_after_a_retry(world: World, pump: Device) -> None:
    await world.operator.pause("j")
    await world.expire()

    job = await world.operator.get("j")
    assert job.status == pb.Job.COMPLETED
    assert job.execution_counts == pb.ExecutionCounts(timed_out=2)
    assert job.updated_at == job.expires_at
    assert job.HasField("pause")

    await world.operator.retry("j", "TIMED_OUT", never_expires=True)

    assert await world.operator.status() == "PAUSED"
    assert await pump.start_next_job() is None
    await world.operator.resume("j")
    assert await pump.start_next_job() == "j"


async def test_pause_writes_no_execution_rows(world: World, pump: Device) -> None:
    versions = "SELECT array_agg(xmin::text) FROM jobs.job_executions WHERE tenant_id = $1"
    before = await world.owner_value(versions)

    await world.operator.pause("j")
    await world.operator.resume("j")

    assert await world.owner_value(versions) == before


PAUSE = "SELECT jobs.pause_job($1, 'j', 'r', NULL, '')"
RESUME = "SELECT jobs.resume_job($1, 'j', '')"


@SINGLE_NODE
async def test_start_is_rejected_when_it_waits_for_a_pause(world: World, pump: Device) -> None:
    async with uncommitted(world.database, PAUSE, world.tenant):
        starting = await world.blocked(pump.start("j"))
    await expect_error("JOB_PAUSED", starting)

    assert await world.operator.counts() == {"queued": 2}


@SINGLE_NODE
async def test_start_next_that_waits_for_a_pause_chooses_again(world: World, pump: Device) -> None:
    await world.create("second")
    async with uncommitted(world.database, PAUSE, world.tenant):
        starting = await world.blocked(pump.start_next_job())

    assert await starting == "second"


@SINGLE_NODE
async def test_start_succeeds_when_it_waits_for_a_resume(world: World, pump: Device) -> None:
    await world.operator.pause("j")
    async with uncommitted(world.database, RESUME, world.tenant):
        starting = await world.blocked(pump.start("j"))

    assert (await starting).status == pb.JobExecution.IN_PROGRESS


@SINGLE_NODE
async def test_start_that_a_pause_waits_for_succeeds(world: World, pump: Device) -> None:
    async with uncommitted_report(world.database, pump, None):
        pausing = await world.blocked(world.operator.pause("j"))

    assert (await pausing).status == pb.Job.PAUSED
    assert await world.operator.counts() == {"queued": 1, "in_progress": 1}
    await expect_error("JOB_PAUSED", world.device("valve").start("j"))


@SINGLE_NODE
async def test_second_concurrent_pause_keeps_the_first_reason(world: World, pump: Device) -> None:
    async with uncommitted(world.database, PAUSE, world.tenant):
        second = await world.blocked(world.operator.pause("j", reason="the second"))

    assert (await second).pause.reason == "r"
