"""A device learns that its job was canceled, and accepts it."""

from typing import Any

import pytest
from fleet.jobs.v1 import device_jobs_pb2 as device_pb
from fleet.jobs.v1 import jobs_pb2 as pb

from tests.support.failures import expect_error, invalid_fields
from tests.support.report_streams import reporting
from tests.support.world import World

REJECTED = pb.JobExecution.REJECTED


@pytest.fixture(autouse=True)
async def job(world: World) -> None:
    """The execution of "pump" of job "j" is IN_PROGRESS; that of "valve" is QUEUED."""
    await world.add_devices(["pump", "valve"])
    await world.create(execution_events=True)
    await world.pump.start("j", status_details={"percent": 10})


async def test_every_response_says_that_the_job_was_canceled(world: World) -> None:
    assert not (await world.pump.get("j")).cancel_requested
    assert not (await world.pump.update("j", "IN_PROGRESS")).cancel_requested

    await world.operator.cancel("j")

    started = await world.pump.start_next()
    assert started is not None
    listed = (await world.pump.pending()).executions
    watched = (await anext(world.pump.watch())).executions
    responses = [started, await world.pump.start("j"), await world.pump.get("j"), *listed, *watched]
    responses.append(await world.pump.update("j", "IN_PROGRESS"))
    assert len(responses) == 6
    assert all(each.cancel_requested for each in responses)
    failure = await expect_error(
        "EXECUTION_CHANGED", world.pump.update("j", "IN_PROGRESS", expected_version=1)
    )
    assert failure.reason == "EXECUTION_CHANGED"
    assert (await world.pump.ended()) == []


async def test_a_stream_of_reports_says_that_the_job_was_canceled(world: World) -> None:
    await world.operator.cancel("j")
    in_progress = pb.JobExecution.IN_PROGRESS
    report = device_pb.UpdateExecutionRequest(job_id="j", status=in_progress)

    async with reporting(world.server, world.tenant) as stream:
        request = device_pb.ReportExecutionsRequest(device_id="pump", report=report)
        await stream.write(request)
        response: Any = await stream.read()
        assert response.execution.cancel_requested
        report.status, report.cancel_accepted = REJECTED, True
        await stream.write(
            device_pb.ReportExecutionsRequest(
                reports=[device_pb.ExecutionReport(device_id="pump", report=report)]
            )
        )
        response = await stream.read()
    (result,) = response.results
    assert (result.execution.status, result.execution.cancel_requested) == (REJECTED, False)


async def test_a_device_may_go_on_after_a_cancel(world: World) -> None:
    await world.operator.cancel("j")

    ended = await world.pump.update("j", "SUCCEEDED")

    assert (ended.status, ended.cancel_requested) == (pb.JobExecution.SUCCEEDED, False)


async def test_an_accepted_cancel_is_no_failure(world: World) -> None:
    await world.operator.cancel("j", reason="smoke")

    ended = await world.pump.accept_cancel("j")

    assert ended.status == REJECTED
    assert ended.status_details == {"percent": 10}
    assert not ended.HasField("failure_code")
    job = await world.operator.get("j")
    assert job.status == pb.Job.CANCELED
    execution = job.executions[0]
    assert execution.end_cause == pb.JobExecution.JOB_CANCELED
    assert not execution.HasField("failure_code")
    assert not (await world.operator.failures("j")).failures
    assert await world.pump.ended() == []
    await world.sweep()
    assert (await world.operator.get("j")).executions[0] == execution


@pytest.mark.parametrize("details", [None, {"step": "rollback"}])
async def test_an_accepted_cancel_can_be_repeated(world: World, details: Any) -> None:
    await world.operator.cancel("j")
    ended = await world.pump.accept_cancel("j", status_details=details)

    assert await world.pump.accept_cancel("j", status_details=details) == ended
    await world.sweep()
    assert await world.pump.accept_cancel("j", status_details=details) == ended
    await expect_error("EXECUTION_FINISHED", world.pump.update("j", "REJECTED"))
    await expect_error("EXECUTION_FINISHED", world.pump.accept_cancel("j", status_details={"n": 1}))


async def test_a_refusal_cannot_be_repeated_as_an_accepted_cancel(world: World) -> None:
    await world.operator.cancel("j")
    await world.pump.update("j", "REJECTED", failure_code="E1")
    await expect_error("EXECUTION_FINISHED", world.pump.accept_cancel("j"))

    execution = (await world.operator.get("j")).executions[0]
    assert (execution.end_cause, execution.failure_code) == (pb.JobExecution.DEVICE, "E1")


@pytest.mark.parametrize("device", ["pump", "valve"])
async def test_a_cancel_cannot_be_accepted_when_the_job_is_not_canceled(
    world: World, device: str
) -> None:
    failure = await expect_error("CANCEL_NOT_REQUESTED", world.device(device).accept_cancel("j"))

    assert failure.metadata == {"jobId": "j", "deviceId": device}
    assert (await world.operator.get("j")).execution_counts.rejected == 0


async def test_a_cancel_cannot_be_accepted_when_the_execution_has_ended(world: World) -> None:
    await world.operator.cancel("j", force=True)

    await expect_error("EXECUTION_FINISHED", world.pump.accept_cancel("j"))
    await expect_error("EXECUTION_FINISHED", world.device("valve").accept_cancel("j"))


async def test_cancel_accepted_needs_rejected_without_a_code(world: World) -> None:
    for status, code in (("FAILED", ""), ("IN_PROGRESS", ""), ("SUCCEEDED", ""), ("REJECTED", "E")):
        call = world.pump.update("j", status, failure_code=code, cancel_accepted=True)
        assert await invalid_fields(call) == ["cancel_accepted"]


async def test_a_watch_is_sent_when_the_job_is_canceled(world: World) -> None:
    responses = world.pump.watch()
    assert [each.cancel_requested for each in (await anext(responses)).executions] == [False]

    await world.operator.cancel("j")

    assert [each.cancel_requested for each in (await anext(responses)).executions] == [True]
    await world.pump.accept_cancel("j")
    assert not (await anext(responses)).executions
