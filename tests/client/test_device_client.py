"""DeviceClient: the calls of a device through the real server."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta

import pytest
from fleet.jobs.v1 import device_jobs_pb2 as device_pb
from fleet.jobs.v1 import jobs_pb2 as pb
from grpc import StatusCode

from jobs_grpc.client import DeviceClient, JobsClient, JobsError, RetryPolicy, errors
from tests.support.database import Database
from tests.support.scripted_server import Answer, Refusal, running_scripted_server
from tests.support.server import Server, running_server
from tests.support.waiting import TIMEOUT


@pytest.fixture
async def device(
    server: Server, database: Database, tenant: str, quick: RetryPolicy
) -> AsyncIterator[DeviceClient]:
    await database.add_devices(tenant, ["pump"])
    async with DeviceClient(server.address, tenant=tenant, device_id="pump", retry=quick) as client:
        yield client


async def test_device_fails_with_a_code_and_rejects(jobs: JobsClient, device: DeviceClient) -> None:
    await jobs.create("reboot", target_all=True, job_id="first")
    await jobs.create("reboot", target_all=True, job_id="second")

    failed = await device.fail(await device.start("first"), "DISK_FULL")
    rejected = await device.reject(await device.start("second"), "BATTERY_LOW")

    assert (failed.status, failed.failure_code) == (pb.JobExecution.FAILED, "DISK_FULL")
    assert (rejected.status, rejected.failure_code) == (pb.JobExecution.REJECTED, "BATTERY_LOW")


async def test_device_accepts_a_cancel(jobs: JobsClient, device: DeviceClient) -> None:
    await jobs.create("reboot", target_all=True, job_id="j")
    started = await device.start("j")
    await jobs.cancel("j")

    assert (await device.progress(started)).cancel_requested
    ended = await device.accept_cancel(started, {"step": "rollback"})

    assert ended.status == pb.JobExecution.REJECTED
    assert ended.status_details == {"step": "rollback"}
    assert not ended.HasField("failure_code")


async def test_device_acknowledges_what_others_ended(
    jobs: JobsClient, device: DeviceClient
) -> None:
    jobs_with_attempts = [f"j{n:03}" for n in range(101)]
    for job_id in jobs_with_attempts:
        await jobs.create("reboot", target_all=True, job_id=job_id)
        await device.start(job_id)
        await jobs.cancel_execution(job_id, "pump", force=True)

    assert await device.start_next() is None
    assert len(device.ended_executions) == 100
    every = [
        device_pb.EndedExecution(job_id=job_id, execution_number=1) for job_id in jobs_with_attempts
    ]
    await device.acknowledge(every)
    assert [execution async for execution in device.pending()] == []
    assert device.ended_executions == ()


async def test_bridge_starts_the_next_executions_of_more_devices_than_fit_in_a_call(
    server: Server, database: Database, tenant: str, jobs: JobsClient
) -> None:
    devices = [f"d{n:03}" for n in range(101)]
    await database.add_devices(tenant, devices)
    await jobs.create("reboot", target_all=True, job_id="j")
    async with DeviceClient(server.address, tenant=tenant, roles=["bridge"]) as bridge:
        results = await bridge.start_next_for_devices(["\n", "d000", *devices])
        assert await bridge.start_next_for_devices([]) == {}

    assert [*results] == ["\n", *devices]
    assert results["\n"].error.code == StatusCode.INVALID_ARGUMENT.value[0]
    assert {results[device].execution.device_id for device in devices} == {*devices}


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


def nothing_pending(seconds: float) -> device_pb.StartNextExecutionResponse:
    response = device_pb.StartNextExecutionResponse()
    response.poll_after.FromTimedelta(timedelta(seconds=seconds))
    return response


def pending(number: int) -> device_pb.StartNextExecutionResponse:
    execution = device_pb.DeviceExecution(job_id="j", execution_number=number)
    return device_pb.StartNextExecutionResponse(execution=execution)


async def test_poll_yields_an_execution_that_is_created_later(
    database: Database, tenant: str, quick: RetryPolicy
) -> None:
    await database.add_devices(tenant, ["pump"])
    async with (
        running_server(database.request_dsn, JOBS_POLL_AFTER="0.1") as server,
        JobsClient(server.address, tenant=tenant) as jobs,
        DeviceClient(server.address, tenant=tenant, device_id="pump", retry=quick) as device,
        asyncio.timeout(TIMEOUT),
    ):
        assert await device.start_next() is None
        executions = device.poll()
        first = asyncio.ensure_future(anext(executions))
        await jobs.create("reboot", target_all=True, job_id="first")
        await device.succeed(await first)
        await jobs.create("reboot", target_all=True, job_id="second")
        second = await anext(executions)

    assert ((await first).job_id, second.job_id) == ("first", "second")


async def test_poll_waits_as_long_as_the_server_asks_for(
    quick: RetryPolicy, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []

    async def note(seconds: float) -> None:
        waits.append(seconds)

    answers: list[Answer] = [nothing_pending(20), nothing_pending(30), pending(1)]
    async with (
        running_scripted_server(StartNextExecution=answers) as server,
        DeviceClient(server.address, tenant="t", device_id="pump", retry=quick) as device,
    ):
        monkeypatch.setattr("jobs_grpc.client.devices.asyncio.sleep", note)
        execution = await anext(device.poll())

    assert (execution.execution_number, waits, device.poll_after) == (1, [20, 30], 30)


async def test_poll_waits_before_it_yields_an_execution_without_a_report_again(
    quick: RetryPolicy,
) -> None:
    answers: list[Answer] = [nothing_pending(0.2), pending(1)]
    async with (
        running_scripted_server(StartNextExecution=answers) as server,
        DeviceClient(server.address, tenant="t", device_id="pump", retry=quick) as device,
    ):
        executions = device.poll()
        first = await anext(executions)
        second = await anext(executions)

    assert first == second
    assert server.calls["StartNextExecution"] == 4


async def test_poll_continues_when_the_server_was_away_for_long(quick: RetryPolicy) -> None:
    away = [Refusal(StatusCode.UNAVAILABLE)] * quick.max_attempts
    answers: list[Answer] = [nothing_pending(0.01), *away, pending(1)]
    retried: list[JobsError] = []
    policy = replace(quick, on_retry=retried.append)
    async with (
        running_scripted_server(StartNextExecution=answers) as server,
        DeviceClient(server.address, tenant="t", device_id="pump", retry=policy) as device,
    ):
        execution = await anext(device.poll())

    assert execution.execution_number == 1
    assert len(retried) == quick.max_attempts


async def test_poll_ends_with_an_error_that_a_repetition_does_not_solve(quick: RetryPolicy) -> None:
    refusal = Refusal(StatusCode.PERMISSION_DENIED, "PERMISSION_DENIED")
    async with (
        running_scripted_server(StartNextExecution=refusal) as server,
        DeviceClient(server.address, tenant="t", device_id="pump", retry=quick) as device,
    ):
        with pytest.raises(JobsError):
            await anext(device.poll())


async def test_devices_of_a_server_without_poll_after_spread() -> None:
    async with running_scripted_server(
        ListPendingExecutions=device_pb.ListPendingExecutionsResponse()
    ) as server:
        intervals = set()
        for _ in range(10):
            async with DeviceClient(server.address, tenant="t", device_id="pump") as device:
                assert [execution async for execution in device.pending()] == []
                intervals.add(device.poll_after)

    assert len(intervals) > 1
    assert all(30 <= seconds <= 90 for seconds in intervals)
