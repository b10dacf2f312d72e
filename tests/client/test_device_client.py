"""DeviceClient: the calls of a device through the real server."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from fleet.jobs.v1 import device_jobs_pb2 as device_pb
from fleet.jobs.v1 import jobs_pb2 as pb
from grpc import StatusCode

from jobs_grpc.client import DeviceClient, JobsClient, JobsError, RetryPolicy, errors
from tests.client.scripted_server import Answer, Refusal, running_scripted_server
from tests.support.database import Database
from tests.support.server import Server
from tests.support.waiting import TIMEOUT


@pytest.fixture
async def device(
    server: Server, database: Database, tenant: str, quick: RetryPolicy
) -> AsyncIterator[DeviceClient]:
    """The only device of the test's tenant."""
    await database.add_devices(tenant, ["pump"])
    async with DeviceClient(server.address, tenant=tenant, device_id="pump", retry=quick) as client:
        yield client


async def test_device_starts_reports_progress_and_succeeds(
    jobs: JobsClient, device: DeviceClient
) -> None:
    await jobs.create("reboot", target_all=True, job_id="j", in_progress_timeout_minutes=5)

    pending = [e.job_id async for e in device.pending()]
    execution = await device.start_next()
    assert execution
    progress = await device.progress(execution, {"percent": 50}, extend_timeout_minutes=60)
    done = await device.succeed(execution, {"version": "2.1"})

    assert pending == ["j"]
    assert progress.times_out_at.seconds > execution.times_out_at.seconds + 3000
    assert done.status == pb.JobExecution.SUCCEEDED
    assert dict((await device.get("j")).status_details) == {"version": "2.1"}
    assert await device.start_next() is None


async def test_device_fails_with_a_code_and_rejects(jobs: JobsClient, device: DeviceClient) -> None:
    await jobs.create("reboot", target_all=True, job_id="first")
    await jobs.create("reboot", target_all=True, job_id="second")

    failed = await device.fail(await device.start("first"), "DISK_FULL")
    rejected = await device.reject(await device.start("second"), "BATTERY_LOW")

    assert (failed.status, failed.failure_code) == (pb.JobExecution.FAILED, "DISK_FULL")
    assert (rejected.status, rejected.failure_code) == (pb.JobExecution.REJECTED, "BATTERY_LOW")


async def test_report_does_not_change_a_later_attempt(
    jobs: JobsClient, device: DeviceClient
) -> None:
    await jobs.create("reboot", target_all=True, job_id="j")
    first = await device.start("j")
    await device.fail(first)
    await jobs.retry("j", [pb.JobExecution.FAILED])

    with pytest.raises(errors.ExecutionChanged) as raised:
        await device.succeed(first)

    assert raised.value.current_execution
    assert raised.value.current_execution.execution_number == 2


async def test_watch_pending_lists_a_new_execution(jobs: JobsClient, device: DeviceClient) -> None:
    lists = device.watch_pending()
    async with asyncio.timeout(TIMEOUT):
        before = await anext(lists)
        await jobs.create("reboot", target_all=True, job_id="j")
        after = await anext(lists)

    assert [e.job_id for e in before.executions] == []
    assert [e.job_id for e in after.executions] == ["j"]


async def test_report_is_repeated_only_if_it_names_the_attempt(quick: RetryPolicy) -> None:
    away = Refusal(StatusCode.UNAVAILABLE)
    answers: list[Answer] = [away, away, device_pb.UpdateExecutionResponse()]
    async with (
        running_scripted_server(UpdateExecution=answers) as server,
        DeviceClient(server.address, tenant="t", device_id="pump", retry=quick) as device,
    ):
        with pytest.raises(JobsError):
            await device.report(device_pb.UpdateExecutionRequest(job_id="j"))
        await device.report(device_pb.UpdateExecutionRequest(job_id="j", execution_number=1))

    assert server.calls["UpdateExecution"] == 3
