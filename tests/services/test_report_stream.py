"""ReportExecutions: many reports over one stream, each with its own answer."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest
from fleet.jobs.v1 import device_jobs_pb2 as device_pb
from fleet.jobs.v1 import device_jobs_pb2_grpc, error_reason_pb2
from fleet.jobs.v1 import jobs_pb2 as pb
from grpc import StatusCode

from tests.support.callers import Operator
from tests.support.database import Database, job_lock_held
from tests.support.failures import expect_failure
from tests.support.server import Server, running_server
from tests.support.waiting import TIMEOUT, wait_until

Stream = grpc.aio.StreamStreamCall[
    device_pb.ReportExecutionsRequest, device_pb.ReportExecutionsResponse
]


@asynccontextmanager
async def reporting(server: Server, tenant: str, device: str = "") -> AsyncIterator[Stream]:
    """An open stream, of a bridge or of a device."""
    stub = device_jobs_pb2_grpc.DeviceJobServiceStub(server.channel)
    of_device = (("x-device-id", device),) if device else ()
    call: Any = stub.ReportExecutions(
        metadata=(("x-tenant-id", tenant), *of_device), timeout=TIMEOUT
    )
    try:
        yield call
    finally:
        call.cancel()


def report(device: str, status: str, report_id: str = "", **fields: Any) -> Any:
    """One report, of the job "j" unless another is given."""
    update = device_pb.UpdateExecutionRequest(**({"job_id": "j", "status": status} | fields))
    return device_pb.ReportExecutionsRequest(
        report_id=report_id or device, device_id=device, report=update
    )


async def answers(stream: Stream, requests: Iterable[Any]) -> dict[str, Any]:
    """Send the reports, end the sending, and read the answers by report_id."""
    for request in requests:
        await stream.write(request)
    await stream.done_writing()
    return {answer.report_id: answer async for answer in stream}


@pytest.fixture
async def fleet(database: Database, operator: Operator) -> list[str]:
    """Devices of the test's tenant, with a job "j" for all of them."""
    devices = [f"d{n:03}" for n in range(100)]
    await database.add_devices(operator.tenant, devices)
    await operator.create(job_id="j", target_all=True)
    return devices


async def test_a_fleet_completes_its_job(
    server: Server, operator: Operator, fleet: list[str]
) -> None:
    async with reporting(server, operator.tenant) as stream:
        answered = await answers(stream, (report(device, "SUCCEEDED") for device in fleet))

    assert sorted(answered) == fleet
    for device, answer in answered.items():
        assert answer.execution.device_id == device
        assert answer.execution.status == pb.JobExecution.SUCCEEDED
        assert not answer.execution.HasField("document_params")
    job = await operator.get("j")
    assert job.status == pb.Job.COMPLETED
    assert job.execution_counts == pb.ExecutionCounts(succeeded=100)


async def test_each_report_has_its_own_outcome(
    database: Database, server: Server, operator: Operator, fleet: list[str]
) -> None:
    await database.set_status(operator.tenant, "j", "d001", "FAILED")
    requests = [
        report("d000", "SUCCEEDED", "good"),
        report("d001", "SUCCEEDED", "over"),
        report("d002", "SUCCEEDED", "changed", expected_version=9),
        report("missing", "SUCCEEDED", "unknown"),
        report("d003", "TIMED_OUT", "invalid"),
        report("", "SUCCEEDED", "nameless"),
    ]

    async with reporting(server, operator.tenant) as stream:
        answered = await answers(stream, requests)

    assert answered["good"].execution.status == pb.JobExecution.SUCCEEDED
    errors = {
        report_id: (answer.error.code, error_reason_pb2.ErrorReason.Name(answer.error.reason))
        for report_id, answer in answered.items()
        if answer.HasField("error")
    }
    assert errors == {
        "over": (StatusCode.FAILED_PRECONDITION.value[0], "EXECUTION_FINISHED"),
        "changed": (StatusCode.ABORTED.value[0], "EXECUTION_CHANGED"),
        "unknown": (StatusCode.NOT_FOUND.value[0], "EXECUTION_NOT_FOUND"),
        "invalid": (StatusCode.INVALID_ARGUMENT.value[0], "INVALID_FIELD"),
        "nameless": (StatusCode.INVALID_ARGUMENT.value[0], "INVALID_FIELD"),
    }
    assert answered["changed"].error.current_execution.version == 1
    assert answered["invalid"].error.message.startswith("status must be one of")


async def test_a_report_that_meets_a_defect_does_not_cost_the_others_their_stream(
    database: Database, server: Server, operator: Operator, fleet: list[str]
) -> None:
    """A constraint that no report should meet stands for the defect."""
    await database.owner.execute(
        "ALTER TABLE jobs.job_executions ADD CONSTRAINT defect"
        " CHECK (status_details ->> 'n' IS DISTINCT FROM 'defect')"
    )
    try:
        async with reporting(server, operator.tenant) as stream:
            answered = await answers(
                stream,
                [
                    report("d000", "SUCCEEDED"),
                    report("d001", "SUCCEEDED", status_details={"n": "defect"}),
                    report("d002", "SUCCEEDED"),
                ],
            )
    finally:
        await database.owner.execute("ALTER TABLE jobs.job_executions DROP CONSTRAINT defect")

    assert answered["d001"].error == device_pb.ReportError(
        code=StatusCode.INTERNAL.value[0],
        reason=error_reason_pb2.INTERNAL,
        message="Internal error",
    )
    for device in ("d000", "d002"):
        assert answered[device].execution.status == pb.JobExecution.SUCCEEDED


async def test_a_device_may_report_for_itself_only(
    server: Server, operator: Operator, fleet: list[str]
) -> None:
    requests = [
        report("", "IN_PROGRESS", "mine"),
        report("d000", "SUCCEEDED", "named"),
        report("d001", "SUCCEEDED", "another's"),
    ]

    async with reporting(server, operator.tenant, device="d000") as stream:
        answered = await answers(stream, requests)

    assert answered["mine"].execution.device_id == "d000"
    assert answered["named"].execution.status == pb.JobExecution.SUCCEEDED
    assert answered["another's"].error.message == "device_id must be empty or the calling device"


async def test_another_tenants_executions_are_not_found(
    server: Server, operator: Operator, fleet: list[str]
) -> None:
    async with reporting(server, f"not-{operator.tenant}") as stream:
        answered = await answers(stream, [report("d000", "SUCCEEDED")])

    assert answered["d000"].error.reason == error_reason_pb2.EXECUTION_NOT_FOUND


async def test_reports_of_one_execution_are_applied_in_their_order(
    server: Server, operator: Operator, fleet: list[str]
) -> None:
    progress = [
        report("d000", "IN_PROGRESS", str(n), status_details={"percent": n}) for n in range(50)
    ]

    async with reporting(server, operator.tenant) as stream:
        answered = await answers(stream, [*progress, report("d000", "SUCCEEDED", "done")])

    versions = [answered[str(n)].execution.version for n in range(50)]
    assert versions == list(range(2, 52))
    assert answered["done"].execution.version == 52
    assert answered["done"].execution.status_details == {"percent": 49}


async def test_a_client_that_is_too_fast_is_held_back(
    database: Database, server: Server, operator: Operator, fleet: list[str]
) -> None:
    """While the database is busy, only so many reports are taken in."""
    total, written = 3000, 0
    details = {"log": "x" * 8000}

    async with reporting(server, operator.tenant) as stream:

        async def write() -> None:
            nonlocal written
            for number in range(total):
                device = fleet[number % len(fleet)]
                await stream.write(
                    report(device, "IN_PROGRESS", str(number), status_details=details)
                )
                written += 1
            await stream.done_writing()

        async with job_lock_held(database, operator.tenant, "j"):
            writing = asyncio.create_task(write())
            seen: list[int] = []

            async def stalled() -> bool:
                seen.append(written)
                return len(seen) > 20 and seen[-20] == written > 0

            await wait_until(stalled)
            assert written < total
        answered = [answer.report_id async for answer in stream]
        await writing

    assert sorted(answered, key=int) == [str(number) for number in range(total)]


async def test_a_stream_that_is_given_up_does_not_take_others_with_it(
    database: Database, server: Server, operator: Operator, fleet: list[str]
) -> None:
    async with (
        job_lock_held(database, operator.tenant, "j"),
        reporting(server, operator.tenant) as stream,
    ):
        await stream.write(report("d000", "SUCCEEDED"))
        await database.wait_for_blocked_sessions(1)
        other = asyncio.create_task(server.device(operator.tenant, "d001").update("j", "SUCCEEDED"))
        await operator.list()

    assert (await other).status == pb.JobExecution.SUCCEEDED


async def test_a_stop_answers_what_was_read_and_ends_the_stream(
    database: Database, operator: Operator, fleet: list[str]
) -> None:
    async with running_server(database.request_dsn, JOBS_SHUTDOWN_GRACE="600") as own:
        stub: Any = device_jobs_pb2_grpc.DeviceJobServiceStub(own.channel)
        stream = stub.ReportExecutions(metadata=(("x-tenant-id", operator.tenant),))
        await stream.write(report("d000", "SUCCEEDED"))
        assert (await stream.read()).report_id == "d000"
        own.app.stopping.set()
        with expect_failure(StatusCode.UNAVAILABLE, "SERVER_STOPPING"):
            await stream.read()
            raise await _error(stream)


async def _error(stream: Any) -> Exception:
    """What a stream has ended with."""
    try:
        await stream
    except grpc.aio.AioRpcError as e:
        return e
    return AssertionError(await stream.code())
