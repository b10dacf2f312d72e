"""CancelExecution, alone and concurrent with reports and starts."""

import pytest
from fleet.jobs.v1 import jobs_pb2 as pb

from tests.support.failures import expect_error
from tests.support.world import World

Counts = pb.ExecutionCounts


@pytest.fixture(autouse=True)
async def job(world: World) -> None:
    await world.add_devices(["pump", "valve"])
    await world.create()


async def test_queued_execution_becomes_rejected_with_the_reason(world: World) -> None:
    execution = await world.operator.cancel_execution("j", "pump", reason="in repair")

    assert (execution.device_id, execution.status) == ("pump", pb.JobExecution.REJECTED)
    assert execution.status_details == {"reason": "in repair"}
    assert not execution.HasField("started_at")
    assert (execution.version, execution.execution_number) == (2, 1)
    job = await world.operator.get("j")
    assert job.status == pb.Job.IN_PROGRESS
    assert job.execution_counts == Counts(rejected=1, queued=1)
    assert job.executions[0] == execution


async def test_device_cannot_start_or_report_a_canceled_execution(world: World) -> None:
    execution = await world.operator.cancel_execution("j", "pump")

    assert execution.status_details == {"reason": "canceled by operator"}  # the default
    assert not (await world.pump.pending()).executions
    assert await world.pump.start_next() is None
    for call in (
        world.pump.start("j"),
        world.pump.update("j", "SUCCEEDED"),
        world.pump.update("j", "REJECTED"),
    ):
        await expect_error("EXECUTION_FINISHED", call)


async def test_execution_in_progress_is_canceled_only_with_force(world: World) -> None:
    started = await world.pump.start("j", status_details={"percent": 10})

    failure = await expect_error(
        "EXECUTION_IN_PROGRESS", world.operator.cancel_execution("j", "pump")
    )
    assert failure.metadata == {"jobId": "j", "deviceId": "pump"}
    assert await world.pump.get("j") == started

    execution = await world.operator.cancel_execution("j", "pump", reason="stuck", force=True)

    assert execution.status == pb.JobExecution.REJECTED
    assert execution.status_details == {"reason": "stuck"}
    assert execution.started_at == started.started_at
    assert await world.operator.counts() == {"rejected": 1, "queued": 1}
    await expect_error("EXECUTION_FINISHED", world.pump.update("j", "SUCCEEDED"))


@pytest.mark.parametrize(
    ("history", "status"),
    [
        ("succeeded", "SUCCEEDED"),
        ("canceled", "REJECTED"),
        ("job canceled", "REJECTED"),
        ("job canceled with force", "REJECTED"),
        ("job expired", "TIMED_OUT"),
    ],
)
async def test_cancel_is_rejected_when_execution_is_finished(
    world: World, history: str, status: str
) -> None:
    match history:
        case "succeeded":
            await world.pump.update("j", "SUCCEEDED")
        case "canceled":
            await world.operator.cancel_execution("j", "pump")
        case "job canceled":
            await world.operator.cancel("j")
        case "job canceled with force":
            await world.pump.start("j")
            await world.operator.cancel("j", force=True)
        case _:
            await world.expire()
    before = await world.operator.get("j")

    for force in (False, True):
        failure = await expect_error(
            "EXECUTION_FINISHED", world.operator.cancel_execution("j", "pump", force=force)
        )
        assert failure.metadata == {"jobId": "j", "deviceId": "pump", "status": status}
    assert await world.operator.get("j") == before


async def test_cancel_is_rejected_when_execution_does_not_exist_in_the_tenant(world: World) -> None:
    other = world.server.operator(world.tenant + "-other")

    for caller, job_id, device in (
        (world.operator, "j", "missing"),
        (world.operator, "missing", "pump"),
        (other, "j", "pump"),
    ):
        failure = await expect_error("EXECUTION_NOT_FOUND", caller.cancel_execution(job_id, device))
        assert failure.metadata == {"jobId": job_id, "deviceId": device}


async def test_cancel_is_rejected_when_a_concurrent_report_is_first(world: World) -> None:
    report = world.pump.update("j", "SUCCEEDED")
    cancel = world.operator.cancel_execution("j", "pump", force=True)
    failure = await world.second_fails("EXECUTION_FINISHED", report, cancel)

    assert failure.metadata["status"] == "SUCCEEDED"
    assert await world.operator.counts() == {"succeeded": 1, "queued": 1}


async def test_report_is_rejected_when_a_concurrent_cancel_is_first(world: World) -> None:
    calls = world.operator.cancel_execution("j", "pump"), world.pump.update("j", "SUCCEEDED")
    failure = await world.second_fails("EXECUTION_FINISHED", *calls)

    assert failure.metadata["status"] == "REJECTED"
    assert await world.operator.counts() == {"rejected": 1, "queued": 1}


async def test_cancel_without_force_is_rejected_after_a_concurrent_start(world: World) -> None:
    calls = world.pump.start("j"), world.operator.cancel_execution("j", "pump")
    await world.second_fails("EXECUTION_IN_PROGRESS", *calls)


async def test_job_completes_when_two_cancels_end_its_last_executions(world: World) -> None:
    calls = (world.operator.cancel_execution("j", name) for name in ("pump", "valve"))
    first, second = await world.lock_in_order(*calls)

    last = max([await first, await second], key=lambda e: e.last_updated_at.ToNanoseconds())
    job = await world.operator.get("j")
    assert (job.status, job.completed_at) == (pb.Job.COMPLETED, last.last_updated_at)
