"""ReportExecutions: reports of many devices on one stream, alone or several in a message."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest
from fleet.jobs.v1 import device_jobs_pb2 as device_pb
from fleet.jobs.v1 import error_reason_pb2
from fleet.jobs.v1 import jobs_pb2 as pb
from grpc import StatusCode

from tests.support.report_streams import Stream, message, report, reporting, single
from tests.support.waiting import wait_until
from tests.support.world import World

DEVICES = [f"d{n:03}" for n in range(100)]


@pytest.fixture(autouse=True)
async def job(world: World) -> None:
    await world.add_devices(DEVICES)
    await world.create()


@pytest.fixture(params=[False, True], ids=["single reports", "message"])
def in_message(request: pytest.FixtureRequest) -> bool:
    several: bool = request.param
    return several


async def send(
    stream: Stream, reports: Sequence[device_pb.ExecutionReport], *, in_message: bool
) -> list[Any]:
    """Send the reports, and return their results in their order."""
    if in_message:
        await stream.write(message(*reports))
        response: Any = await stream.read()
        return list(response.results)
    for one in reports:
        await stream.write(single(one))
    await stream.done_writing()
    responses = [response async for response in stream]
    places = {one.report_id: place for place, one in enumerate(reports)}
    return sorted(responses, key=lambda response: places.get(response.report_id, 999))


def reasons(results: Sequence[Any]) -> list[str]:
    """The reason of each result that is an error; empty if it is an execution."""
    return [
        error_reason_pb2.ErrorReason.Name(result.error.reason) if result.HasField("error") else ""
        for result in results
    ]


async def test_job_completes_with_reports_on_one_stream(world: World, in_message: bool) -> None:
    devices = DEVICES[::-1]
    reports = [
        report(device, "SUCCEEDED", f"r-{device}", status_details={"log": "x"})
        for device in devices
    ]

    async with reporting(world.server, world.tenant) as stream:
        results = await send(stream, reports, in_message=in_message)

    assert [result.report_id for result in results] == [f"r-{device}" for device in devices]
    assert [result.execution.device_id for result in results] == devices
    for result in results:
        assert result.execution.job_id == "j"
        assert result.execution.status == pb.JobExecution.SUCCEEDED
        assert result.execution.version == 2
        assert not result.execution.HasField("document_params")
        assert result.execution.HasField("status_details") is not in_message
    assert await world.operator.status() == "COMPLETED"
    assert await world.operator.counts() == {"succeeded": 100}
    assert (await world.device(DEVICES[0]).get("j")).status_details == {"log": "x"}


async def test_each_report_has_its_own_result_or_error(world: World, in_message: bool) -> None:
    await world.database.set_status(world.tenant, "j", "d001", "FAILED")
    reports = [
        report("missing", "SUCCEEDED", "unknown"),
        report("d000", "SUCCEEDED", "x" * 128),
        report("d001", "SUCCEEDED", "finished"),
        report("d003", "TIMED_OUT", "invalid"),
        report("d002", "SUCCEEDED", "changed", expected_version=9),
        report("", "SUCCEEDED", "without-device"),
        report("d005", "FAILED", "also-valid"),
        report("d004", "SUCCEEDED", "x" * 129),
    ]

    async with reporting(world.server, world.tenant) as stream:
        results = await send(stream, reports, in_message=in_message)

    assert [result.report_id for result in results] == [
        *(one.report_id for one in reports[:-1]),
        "",  # not returned, because it is too long
    ]
    assert reasons(results) == [
        *("EXECUTION_NOT_FOUND", "", "EXECUTION_FINISHED", "INVALID_FIELD"),
        *("EXECUTION_CHANGED", "INVALID_FIELD", "", "INVALID_FIELD"),
    ]
    assert [result.execution.device_id for result in (results[1], results[6])] == ["d000", "d005"]
    assert results[3].error.message.startswith("status must be one of")
    changed = results[4].error
    assert changed.code == StatusCode.ABORTED.value[0]
    assert (changed.current_execution.device_id, changed.current_execution.version) == ("d002", 1)
    assert "x" * 129 not in str(results[-1])
    assert await world.operator.counts() == {"queued": 97, "succeeded": 1, "failed": 2}


async def test_reports_of_one_device_are_applied_in_order(world: World, in_message: bool) -> None:
    """The third one expects the version that the first one writes, the fourth one does not."""
    reports = [
        report("d000", "IN_PROGRESS", "0", expected_version=1),
        report("d001", "SUCCEEDED", "1"),
        report("d000", "IN_PROGRESS", "2", expected_version=2),
        report("d000", "FAILED", "3", expected_version=2),
        report("d000", "SUCCEEDED", "4", expected_version=3),
        report("d000", "SUCCEEDED", "5"),
    ]

    async with reporting(world.server, world.tenant) as stream:
        results = await send(stream, reports, in_message=in_message)

    assert reasons(results) == ["", "", "", "EXECUTION_CHANGED", "", ""]
    versions = [
        r.execution.version if r.HasField("execution") else r.error.current_execution.version
        for r in results
    ]
    # The last report is a duplicate.
    assert versions == [2, 2, 3, 3, 4, 4]
    assert results[4].execution.status == pb.JobExecution.SUCCEEDED


@asynccontextmanager
async def planted_bug(world: World) -> AsyncIterator[None]:
    """A constraint that the code does not expect."""
    alter = "ALTER TABLE jobs.job_executions"
    check = "CHECK (status_details ->> 'n' IS DISTINCT FROM 'bug')"
    await world.database.owner.execute(f"{alter} ADD CONSTRAINT unexpected {check}")
    try:
        yield
    finally:
        await world.database.owner.execute(f"{alter} DROP CONSTRAINT unexpected")


async def test_internal_error_of_a_report_leaves_others(world: World, in_message: bool) -> None:
    reports = [
        report("d000", "SUCCEEDED", "0"),
        report("d001", "SUCCEEDED", "1", status_details={"n": "bug"}),
        report("d002", "SUCCEEDED", "2"),
    ]

    async with planted_bug(world), reporting(world.server, world.tenant) as stream:
        results = await send(stream, reports, in_message=in_message)

    assert reasons(results) == ["", "INTERNAL", ""]
    assert results[1].error == device_pb.ItemError(
        code=StatusCode.INTERNAL.value[0],
        reason=error_reason_pb2.INTERNAL,
        message="Internal error",
    )


async def test_device_cannot_report_for_another_device(world: World, in_message: bool) -> None:
    reports = [
        report("", "IN_PROGRESS", "0"),
        report("d000", "SUCCEEDED", "1"),
        report("d001", "SUCCEEDED", "2"),
    ]

    async with reporting(world.server, world.tenant, device="d000") as stream:
        without_device, own, other = await send(stream, reports, in_message=in_message)

    assert without_device.execution.device_id == own.execution.device_id == "d000"
    assert other.error.message == "device_id must be empty or the id of the calling device"


@pytest.mark.slow
async def test_client_is_slowed_down_when_reports_cannot_be_applied(world: World) -> None:
    """While the job is locked, the server reads only a limited number of reports."""
    total, written = 700, 0
    details = {"log": "x" * 30_000}

    async with reporting(world.server, world.tenant) as stream:

        async def write() -> None:
            nonlocal written
            for number in range(total):
                device = DEVICES[number % len(DEVICES)]
                one = report(device, "IN_PROGRESS", str(number), status_details=details)
                await stream.write(single(one))
                written += 1
            await stream.done_writing()

        async with world.lock_held():
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


async def test_update_of_another_device_succeeds_when_a_stream_is_canceled(world: World) -> None:
    async with world.lock_held(), reporting(world.server, world.tenant) as stream:
        await stream.write(single(report("d000", "SUCCEEDED")))
        await world.database.wait_for_blocked_sessions(1)
        other = asyncio.create_task(world.device("d001").update("j", "SUCCEEDED"))
        await world.operator.list()

    assert (await other).status == pb.JobExecution.SUCCEEDED
