"""ReportExecutions: many reports on one stream, each with its own response."""

import asyncio
from collections.abc import Iterable
from typing import Any

import pytest
from fleet.jobs.v1 import device_jobs_pb2 as device_pb
from fleet.jobs.v1 import device_jobs_pb2_grpc, error_reason_pb2
from fleet.jobs.v1 import jobs_pb2 as pb
from grpc import StatusCode

from tests.support.callers import Operator, read_to_end
from tests.support.database import Database, job_lock_held
from tests.support.failures import expect_failure
from tests.support.report_streams import Stream, reporting
from tests.support.server import Server, running_server
from tests.support.waiting import wait_until


def report(device: str, status: str, report_id: str = "", **fields: Any) -> Any:
    """One report; job_id defaults to "j", and report_id to the device."""
    update = device_pb.UpdateExecutionRequest(**({"job_id": "j", "status": status} | fields))
    return device_pb.ReportExecutionsRequest(
        report_id=report_id or device, device_id=device, report=update
    )


async def send_reports(stream: Stream, requests: Iterable[Any]) -> dict[str, Any]:
    """Send the reports, half-close the stream, and return the responses by report_id."""
    for request in requests:
        await stream.write(request)
    await stream.done_writing()
    return {response.report_id: response async for response in stream}


@pytest.fixture
async def fleet(database: Database, operator: Operator) -> list[str]:
    """The devices of the test's tenant, with a job "j" for all of them."""
    devices = [f"d{n:03}" for n in range(100)]
    await database.add_devices(operator.tenant, devices)
    await operator.create(job_id="j", target_all=True)
    return devices


async def test_job_completes_when_all_devices_report_on_one_stream(
    server: Server, operator: Operator, fleet: list[str]
) -> None:
    async with reporting(server, operator.tenant) as stream:
        responses = await send_reports(stream, (report(device, "SUCCEEDED") for device in fleet))

    assert sorted(responses) == fleet
    for device, response in responses.items():
        assert response.execution.device_id == device
        assert response.execution.status == pb.JobExecution.SUCCEEDED
        assert not response.execution.HasField("document_params")
    job = await operator.get("j")
    assert job.status == pb.Job.COMPLETED
    assert job.execution_counts == pb.ExecutionCounts(succeeded=100)


async def test_each_report_has_its_own_result_or_error(
    database: Database, server: Server, operator: Operator, fleet: list[str]
) -> None:
    await database.set_status(operator.tenant, "j", "d001", "FAILED")
    requests = [
        report("d000", "SUCCEEDED", "valid"),
        report("d001", "SUCCEEDED", "finished"),
        report("d002", "SUCCEEDED", "changed", expected_version=9),
        report("missing", "SUCCEEDED", "unknown"),
        report("d003", "TIMED_OUT", "invalid"),
        report("", "SUCCEEDED", "without-device"),
    ]

    async with reporting(server, operator.tenant) as stream:
        responses = await send_reports(stream, requests)

    assert responses["valid"].execution.status == pb.JobExecution.SUCCEEDED
    errors = {
        report_id: (response.error.code, error_reason_pb2.ErrorReason.Name(response.error.reason))
        for report_id, response in responses.items()
        if response.HasField("error")
    }
    assert errors == {
        "finished": (StatusCode.FAILED_PRECONDITION.value[0], "EXECUTION_FINISHED"),
        "changed": (StatusCode.ABORTED.value[0], "EXECUTION_CHANGED"),
        "unknown": (StatusCode.NOT_FOUND.value[0], "EXECUTION_NOT_FOUND"),
        "invalid": (StatusCode.INVALID_ARGUMENT.value[0], "INVALID_FIELD"),
        "without-device": (StatusCode.INVALID_ARGUMENT.value[0], "INVALID_FIELD"),
    }
    assert responses["changed"].error.current_execution.version == 1
    assert responses["invalid"].error.message.startswith("status must be one of")


async def test_stream_continues_when_one_report_causes_an_internal_error(
    database: Database, server: Server, operator: Operator, fleet: list[str]
) -> None:
    """A constraint that the code does not expect simulates a bug."""
    await database.owner.execute(
        "ALTER TABLE jobs.job_executions ADD CONSTRAINT unexpected"
        " CHECK (status_details ->> 'n' IS DISTINCT FROM 'bug')"
    )
    try:
        async with reporting(server, operator.tenant) as stream:
            responses = await send_reports(
                stream,
                [
                    report("d000", "SUCCEEDED"),
                    report("d001", "SUCCEEDED", status_details={"n": "bug"}),
                    report("d002", "SUCCEEDED"),
                ],
            )
    finally:
        await database.owner.execute("ALTER TABLE jobs.job_executions DROP CONSTRAINT unexpected")

    assert responses["d001"].error == device_pb.ReportError(
        code=StatusCode.INTERNAL.value[0],
        reason=error_reason_pb2.INTERNAL,
        message="Internal error",
    )
    for device in ("d000", "d002"):
        assert responses[device].execution.status == pb.JobExecution.SUCCEEDED


async def test_report_of_another_device_is_rejected_when_caller_is_a_device(
    server: Server, operator: Operator, fleet: list[str]
) -> None:
    requests = [
        report("", "IN_PROGRESS", "without-device"),
        report("d000", "SUCCEEDED", "own-device"),
        report("d001", "SUCCEEDED", "other-device"),
    ]

    async with reporting(server, operator.tenant, device="d000") as stream:
        responses = await send_reports(stream, requests)

    assert responses["without-device"].execution.device_id == "d000"
    assert responses["own-device"].execution.status == pb.JobExecution.SUCCEEDED
    assert (
        responses["other-device"].error.message
        == "device_id must be empty or the id of the calling device"
    )


async def test_executions_of_another_tenant_are_not_found(
    server: Server, operator: Operator, fleet: list[str]
) -> None:
    async with reporting(server, f"not-{operator.tenant}") as stream:
        responses = await send_reports(stream, [report("d000", "SUCCEEDED")])

    assert responses["d000"].error.reason == error_reason_pb2.EXECUTION_NOT_FOUND


async def test_reports_of_one_execution_are_applied_in_order(
    server: Server, operator: Operator, fleet: list[str]
) -> None:
    progress = [
        report("d000", "IN_PROGRESS", str(n), status_details={"percent": n}) for n in range(50)
    ]

    async with reporting(server, operator.tenant) as stream:
        responses = await send_reports(stream, [*progress, report("d000", "SUCCEEDED", "last")])

    versions = [responses[str(n)].execution.version for n in range(50)]
    assert versions == list(range(2, 52))
    assert responses["last"].execution.version == 52
    assert responses["last"].execution.status_details == {"percent": 49}


@pytest.mark.slow
async def test_client_is_slowed_down_when_reports_cannot_be_applied(
    database: Database, server: Server, operator: Operator, fleet: list[str]
) -> None:
    """While the job is locked, the server reads only a limited number of reports."""
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
            samples: list[int] = []

            async def has_stalled() -> bool:
                samples.append(written)
                return len(samples) > 20 and samples[-20] == written > 0

            await wait_until(has_stalled)
            assert written < total
        report_ids = [response.report_id async for response in stream]
        await writing

    assert sorted(report_ids, key=int) == [str(number) for number in range(total)]


async def test_update_of_another_device_succeeds_when_a_stream_is_canceled(
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


async def test_stream_ends_with_server_stopping_when_the_server_stops(
    database: Database, operator: Operator, fleet: list[str]
) -> None:
    async with running_server(database.request_dsn, JOBS_SHUTDOWN_GRACE="600") as stopping_server:
        stub: Any = device_jobs_pb2_grpc.DeviceJobServiceStub(stopping_server.channel)
        stream = stub.ReportExecutions(metadata=(("x-tenant-id", operator.tenant),))
        await stream.write(report("d000", "SUCCEEDED"))
        assert (await stream.read()).report_id == "d000"
        stopping_server.app.stopping.set()
        with expect_failure(StatusCode.UNAVAILABLE, "SERVER_STOPPING"):
            await read_to_end(stream)


async def test_report_id_of_128_characters_is_returned(
    server: Server, operator: Operator, fleet: list[str]
) -> None:
    async with reporting(server, operator.tenant) as stream:
        responses = await send_reports(stream, [report(fleet[0], "SUCCEEDED", "x" * 128)])

    assert responses["x" * 128].WhichOneof("result") == "execution"


async def test_report_id_is_not_returned_when_it_is_too_long(
    server: Server, operator: Operator, fleet: list[str]
) -> None:
    async with reporting(server, operator.tenant) as stream:
        responses = await send_reports(stream, [report(fleet[0], "SUCCEEDED", "x" * 129)])

    (response,) = responses.values()
    assert response.report_id == ""
    assert response.error.reason == error_reason_pb2.INVALID_FIELD
    assert "x" * 129 not in str(response)
