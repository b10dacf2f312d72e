"""ReportStream: back-pressure, and repeats after a broken connection."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from fleet.jobs.v1 import device_jobs_pb2 as device_pb
from fleet.jobs.v1 import jobs_pb2 as pb

from jobs_grpc.client import DeviceClient, JobsClient, RetryPolicy, errors
from tests.client.relay import Relay, running_relay
from tests.support.database import Database, job_lock_held
from tests.support.server import Server, reserved_address, running_server
from tests.support.waiting import TIMEOUT, read_until


def update(
    status: pb.JobExecution.Status.ValueType = pb.JobExecution.SUCCEEDED,
    job_id: str = "j",
    **details: float,
) -> device_pb.UpdateExecutionRequest:
    request = device_pb.UpdateExecutionRequest(job_id=job_id, status=status, execution_number=1)
    request.status_details.update(details)
    return request


@pytest.fixture
async def job(database: Database, jobs: JobsClient, tenant: str) -> None:
    await database.add_devices(tenant, 500)
    await jobs.create("reboot", target_all=True, job_id="j")


@pytest.fixture
async def relay(server: Server) -> AsyncIterator[Relay]:
    async with running_relay(server.address) as running:
        yield running


@pytest.fixture
async def bridge(relay: Relay, tenant: str, quick: RetryPolicy) -> AsyncIterator[DeviceClient]:
    async with DeviceClient(relay.address, tenant=tenant, roles=["bridge"], retry=quick) as client:
        yield client


async def wait_for_succeeded(jobs: JobsClient, count: int) -> None:
    await read_until(lambda: jobs.get("j"), lambda job: job.succeeded_count == count)


@pytest.mark.slow
async def test_stream_reports_for_many_devices(
    jobs: JobsClient, bridge: DeviceClient, job: None
) -> None:
    async with asyncio.timeout(TIMEOUT), bridge.report_stream() as reports:
        answers = [await reports.send(update(), device_id=f"d{n:05}") for n in range(1, 501)]

    finished = await jobs.get("j")
    assert (finished.status, finished.succeeded_count) == (pb.Job.COMPLETED, 500)
    assert {answer.result().status for answer in answers} == {pb.JobExecution.SUCCEEDED}


@pytest.mark.slow
async def test_reports_without_an_answer_are_sent_again_and_have_no_second_effect(
    jobs: JobsClient, bridge: DeviceClient, relay: Relay, job: None
) -> None:
    async with asyncio.timeout(TIMEOUT), bridge.report_stream() as reports:
        await reports.report(update(pb.JobExecution.IN_PROGRESS), device_id="d00001")
        relay.hold_answers()
        answers = [
            await reports.send(update(percent=100), device_id=f"d{n:05}") for n in range(1, 51)
        ]
        await wait_for_succeeded(jobs, 50)  # stored, but the answers are held
        assert not any(answer.done() for answer in answers)
        relay.cut()
        executions = await asyncio.gather(*answers)

    versions = [e.version async for e in jobs.executions("j", status=pb.JobExecution.SUCCEEDED)]
    assert {execution.status for execution in executions} == {pb.JobExecution.SUCCEEDED}
    assert relay.connection_count >= 2
    # The first device has also reported progress, once.
    assert versions == [3, *[2] * 49]
    assert (await jobs.get("j")).succeeded_count == 50


async def test_reports_on_one_execution_are_applied_in_order_after_a_broken_connection(
    jobs: JobsClient, bridge: DeviceClient, relay: Relay, job: None
) -> None:
    async with asyncio.timeout(TIMEOUT), bridge.report_stream() as reports:
        await reports.report(update(pb.JobExecution.IN_PROGRESS), device_id="d00002")
        relay.hold_answers()
        answers = [
            await reports.send(update(pb.JobExecution.IN_PROGRESS, percent=n), device_id="d00001")
            for n in range(3)
        ]
        answers.append(await reports.send(update(percent=100), device_id="d00001"))
        await read_until(lambda: jobs.get("j"), lambda job: job.execution_counts.in_progress == 2)
        relay.cut()
        executions = await asyncio.gather(*answers)

    execution = await anext(jobs.executions("j"))
    assert [e.status for e in executions] == [
        *[pb.JobExecution.IN_PROGRESS] * 3,
        pb.JobExecution.SUCCEEDED,
    ]
    assert dict(execution.status_details) == {"percent": 100}


async def test_send_waits_while_too_many_reports_have_no_answer(
    database: Database, bridge: DeviceClient, tenant: str, job: None
) -> None:
    async with asyncio.timeout(TIMEOUT), bridge.report_stream(max_pending=10) as reports:
        async with job_lock_held(database, tenant, "j"):
            for number in range(1, 11):
                _ = await reports.send(update(), device_id=f"d{number:05}")
            eleventh = asyncio.create_task(reports.send(update(), device_id="d00011"))
            await database.wait_for_blocked_sessions(1)
            assert not eleventh.done()
        answer = await eleventh

    assert answer.result().status == pb.JobExecution.SUCCEEDED


async def test_error_of_a_report_does_not_affect_the_others(
    bridge: DeviceClient, job: None
) -> None:
    async with asyncio.timeout(TIMEOUT), bridge.report_stream() as reports:
        missing = await reports.send(update(job_id="other"), device_id="d00001")
        stored = await reports.send(update(), device_id="d00001")

    assert isinstance(missing.exception(), errors.ExecutionNotFound)
    assert stored.result().status == pb.JobExecution.SUCCEEDED


async def test_stream_raises_when_the_server_refuses_it_for_good(
    server: Server, tenant: str, job: None
) -> None:
    viewer = DeviceClient(server.address, tenant=tenant, roles=["viewer"])
    async with asyncio.timeout(TIMEOUT), viewer:
        with pytest.raises(errors.RoleRequired):
            async with viewer.report_stream() as reports:
                await reports.report(update(), device_id="d00001")


async def test_stream_refuses_a_report_that_is_not_safe_to_repeat(
    bridge: DeviceClient, job: None
) -> None:
    no_number, versioned = update(), update()
    no_number.ClearField("execution_number")
    versioned.expected_version = 1
    huge = update()
    huge.status_details.update({"log": "x" * 300_000})

    async with asyncio.timeout(TIMEOUT), bridge.report_stream() as reports:
        for request in (no_number, versioned, huge):
            with pytest.raises(ValueError, match="report"):
                _ = await reports.send(request, device_id="d00001")


@pytest.mark.slow
async def test_stream_continues_after_the_server_restarts(
    database: Database, jobs: JobsClient, tenant: str, quick: RetryPolicy, job: None
) -> None:
    with reserved_address() as address:
        bridge = DeviceClient(address, tenant=tenant, roles=["bridge"], retry=quick)
        async with asyncio.timeout(TIMEOUT), bridge, bridge.report_stream() as reports:
            async with running_server(database.request_dsn, JOBS_LISTEN=address):
                await reports.report(update(), device_id="d00001")
            answer = await reports.send(update(), device_id="d00002")
            async with running_server(database.request_dsn, JOBS_LISTEN=address):
                await answer

    await wait_for_succeeded(jobs, 2)
