"""ReportExecutions: messages with several reports, each with its own result."""

import asyncio
import itertools
import logging
from collections.abc import AsyncIterator, Iterable
from typing import Any
from unittest.mock import AsyncMock, Mock

import pytest
from fleet.jobs.v1 import device_jobs_pb2 as device_pb
from fleet.jobs.v1 import device_jobs_pb2_grpc, error_reason_pb2
from fleet.jobs.v1 import jobs_pb2 as pb
from google.protobuf.struct_pb2 import Struct
from grpc import StatusCode

from jobs_grpc.auth.principal import Principal
from jobs_grpc.auth.roles import Role
from jobs_grpc.db.update_batcher import UpdateBatcher
from jobs_grpc.errors import Internal
from jobs_grpc.limits.fair_slots import FairSlots
from jobs_grpc.limits.memory_limit import MemoryLimit
from jobs_grpc.services.report_stream import ReportStream
from tests.support.callers import Operator
from tests.support.database import Database, job_lock_held
from tests.support.failures import expect_failure
from tests.support.metrics import METRICS_ON, scrape
from tests.support.report_streams import Stream, reporting
from tests.support.server import Server, running_server
from tests.support.waiting import wait_until


def report(device: str, status: str, report_id: str = "", **fields: Any) -> Any:
    """One report on the job "j"."""
    update = device_pb.UpdateExecutionRequest(**({"job_id": "j", "status": status} | fields))
    return device_pb.ExecutionReport(report_id=report_id, device_id=device, report=update)


def message(*reports: Any) -> device_pb.ReportExecutionsRequest:
    """One message with several reports."""
    return device_pb.ReportExecutionsRequest(reports=reports)


async def respond(stream: Stream, request: device_pb.ReportExecutionsRequest) -> Any:
    """Send a message and return its response."""
    await stream.write(request)
    return await stream.read()


@pytest.fixture
async def fleet(database: Database, operator: Operator) -> list[str]:
    """The devices of the test's tenant, with a job "j" for all of them."""
    devices = [f"d{n:03}" for n in range(120)]
    await database.add_devices(operator.tenant, devices)
    await operator.create(job_id="j", target_all=True)
    return devices


async def test_message_has_one_response_with_the_results_in_its_order(
    server: Server, operator: Operator, fleet: list[str]
) -> None:
    devices = list(reversed(fleet[:100]))
    reports = [
        report(device, "SUCCEEDED", f"r-{device}", status_details={"log": "x"})
        for device in devices
    ]

    async with reporting(server, operator.tenant) as stream:
        response = await respond(stream, message(*reports))

    assert response.WhichOneof("result") is None
    assert [result.report_id for result in response.results] == [f"r-{d}" for d in devices]
    for device, result in zip(devices, response.results, strict=True):
        assert result.execution.device_id == device
        assert result.execution.job_id == "j"
        assert result.execution.status == pb.JobExecution.SUCCEEDED
        assert result.execution.version == 2
        assert not result.execution.HasField("document_params")
        assert not result.execution.HasField("status_details")
    assert (await operator.get("j")).execution_counts.succeeded == 100
    execution = await server.device(operator.tenant, fleet[0]).get("j")
    assert execution.status_details == {"log": "x"}


async def test_each_report_of_a_message_has_its_own_result_or_error(
    database: Database, server: Server, operator: Operator, fleet: list[str]
) -> None:
    await database.set_status(operator.tenant, "j", "d001", "FAILED")
    reports = [
        report("missing", "SUCCEEDED", "unknown"),
        report("d000", "SUCCEEDED", "valid"),
        report("d001", "SUCCEEDED", "finished"),
        report("d003", "TIMED_OUT", "invalid"),
        report("d002", "SUCCEEDED", "changed", expected_version=9),
        report("d004", "SUCCEEDED", "x" * 129),
        report("", "SUCCEEDED", "without-device"),
        report("d005", "FAILED", "also-valid"),
    ]

    async with reporting(server, operator.tenant) as stream:
        response = await respond(stream, message(*reports))

    outcomes = [
        (r.report_id, error_reason_pb2.ErrorReason.Name(r.error.reason))
        if r.HasField("error")
        else (r.report_id, r.execution.device_id)
        for r in response.results
    ]
    assert outcomes == [
        ("unknown", "EXECUTION_NOT_FOUND"),
        ("valid", "d000"),
        ("finished", "EXECUTION_FINISHED"),
        ("invalid", "INVALID_FIELD"),
        ("changed", "EXECUTION_CHANGED"),
        ("", "INVALID_FIELD"),
        ("without-device", "INVALID_FIELD"),
        ("also-valid", "d005"),
    ]
    changed = response.results[4].error
    assert changed.code == StatusCode.ABORTED.value[0]
    assert (changed.current_execution.device_id, changed.current_execution.version) == ("d002", 1)
    counts = (await operator.get("j")).execution_counts
    assert (counts.succeeded, counts.failed, counts.queued) == (1, 2, 117)


async def test_reports_of_one_message_on_one_execution_are_applied_in_order(
    server: Server, operator: Operator, fleet: list[str]
) -> None:
    """The second one expects the version that the first one writes, the third one does not."""
    reports = [
        report("d000", "IN_PROGRESS", expected_version=1),
        report("d001", "SUCCEEDED"),
        report("d000", "IN_PROGRESS", expected_version=2),
        report("d000", "FAILED", expected_version=2),
        report("d000", "SUCCEEDED", expected_version=3),
    ]

    async with reporting(server, operator.tenant) as stream:
        response = await respond(stream, message(*reports))

    versions = [
        r.execution.version if r.HasField("execution") else r.error.current_execution.version
        for r in response.results
    ]
    assert versions == [2, 2, 3, 3, 4]
    errors = [n for n, r in enumerate(response.results) if r.HasField("error")]
    assert errors == [3]
    assert response.results[3].error.reason == error_reason_pb2.EXECUTION_CHANGED
    assert response.results[4].execution.status == pb.JobExecution.SUCCEEDED


async def test_duplicate_report_of_a_message_returns_the_stored_execution(
    server: Server, operator: Operator, fleet: list[str]
) -> None:
    twice = report("d000", "SUCCEEDED", "same", status_details={"n": 1})

    async with reporting(server, operator.tenant) as stream:
        response = await respond(stream, message(twice, twice))

    assert [(r.report_id, r.execution.version) for r in response.results] == [("same", 2)] * 2


async def test_other_reports_of_a_message_are_applied_when_one_causes_an_internal_error(
    database: Database, server: Server, operator: Operator, fleet: list[str]
) -> None:
    """A constraint that the code does not expect simulates a bug."""
    await database.owner.execute(
        "ALTER TABLE jobs.job_executions ADD CONSTRAINT unexpected"
        " CHECK (status_details ->> 'n' IS DISTINCT FROM 'bug')"
    )
    try:
        async with reporting(server, operator.tenant) as stream:
            response = await respond(
                stream,
                message(
                    report("d000", "SUCCEEDED"),
                    report("d001", "SUCCEEDED", status_details={"n": "bug"}),
                    report("d002", "SUCCEEDED"),
                ),
            )
    finally:
        await database.owner.execute("ALTER TABLE jobs.job_executions DROP CONSTRAINT unexpected")

    assert [r.WhichOneof("result") for r in response.results] == ["execution", "error", "execution"]
    assert response.results[1].error.reason == error_reason_pb2.INTERNAL
    assert response.results[1].error.message == "Internal error"


async def test_message_is_rejected_when_it_has_more_than_100_reports(
    server: Server, operator: Operator, fleet: list[str]
) -> None:
    too_many = [report(device, "SUCCEEDED") for device in fleet[:101]]

    async with reporting(server, operator.tenant) as stream:
        rejected = await respond(stream, message(*too_many))
        accepted = await respond(stream, message(*too_many[:1]))

    assert rejected.error.code == StatusCode.INVALID_ARGUMENT.value[0]
    assert rejected.error.reason == error_reason_pb2.INVALID_FIELD
    assert rejected.error.message == "reports must have at most 100 elements"
    assert not rejected.results
    assert accepted.results[0].execution.device_id == "d000"
    assert (await operator.get("j")).execution_counts.succeeded == 1


@pytest.mark.parametrize(
    "fields",
    [
        {"report_id": "r"},
        {"device_id": "d001"},
        {"report": device_pb.UpdateExecutionRequest(job_id="j", status=pb.JobExecution.FAILED)},
    ],
    ids=["report_id", "device_id", "report"],
)
async def test_message_is_rejected_when_it_has_reports_and_another_field(
    server: Server, operator: Operator, fleet: list[str], fields: dict[str, Any]
) -> None:
    request = device_pb.ReportExecutionsRequest(reports=[report("d000", "SUCCEEDED")], **fields)

    async with reporting(server, operator.tenant) as stream:
        rejected = await respond(stream, request)
        accepted = await respond(stream, message(report("d002", "SUCCEEDED")))

    assert rejected.report_id == fields.get("report_id", "")
    assert rejected.error.code == StatusCode.INVALID_ARGUMENT.value[0]
    assert rejected.error.message == (
        "reports must be empty if report_id, device_id or report is set"
    )
    assert not rejected.results
    assert accepted.results[0].execution.device_id == "d002"
    counts = (await operator.get("j")).execution_counts
    assert (counts.succeeded, counts.failed) == (1, 0)


async def test_reports_of_another_device_are_rejected_when_caller_is_a_device(
    server: Server, operator: Operator, fleet: list[str]
) -> None:
    async with reporting(server, operator.tenant, device="d000") as stream:
        response = await respond(
            stream, message(report("", "IN_PROGRESS"), report("d001", "FAILED"))
        )

    own, other = response.results
    assert own.execution.device_id == "d000"
    assert other.error.message == "device_id must be empty or the id of the calling device"


async def test_reports_that_are_not_sent_are_not_applied_when_the_stream_is_canceled(
    database: Database,
    server: Server,
    operator: Operator,
    fleet: list[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The first report of each device is in the database; the second one waits for it."""
    caplog.set_level(logging.INFO, "jobs_grpc.calls")
    async with job_lock_held(database, operator.tenant, "j"):
        async with reporting(server, operator.tenant) as stream:
            await stream.write(
                message(
                    report("d000", "IN_PROGRESS"),
                    report("d001", "IN_PROGRESS"),
                    report("d000", "SUCCEEDED"),
                    report("d001", "SUCCEEDED"),
                )
            )
            await database.wait_for_blocked_sessions(1)

        async def stream_has_ended() -> bool:
            return "ReportExecutions CANCELLED" in caplog.text

        await wait_until(stream_has_ended)
    # Updates of a device are applied in order, so this one follows those of the stream.
    await server.device(operator.tenant, "d001").update("j", "IN_PROGRESS")

    counts = (await operator.get("j")).execution_counts
    assert (counts.in_progress, counts.succeeded) == (2, 0)


async def test_message_that_was_read_is_answered_when_the_server_stops(
    database: Database, operator: Operator, fleet: list[str]
) -> None:
    async with running_server(database.request_dsn, JOBS_SHUTDOWN_GRACE="600") as stopping_server:
        stub: Any = device_jobs_pb2_grpc.DeviceJobServiceStub(stopping_server.channel)
        stream = stub.ReportExecutions(metadata=(("x-tenant-id", operator.tenant),))
        async with job_lock_held(database, operator.tenant, "j"):
            await stream.write(message(*(report(d, "SUCCEEDED") for d in fleet[:50])))
            await database.wait_for_blocked_sessions(1)
            stopping_server.app.stopping.set()
        response = await stream.read()
        with expect_failure(StatusCode.UNAVAILABLE, "SERVER_STOPPING"):
            await stream.read()

    assert [r.execution.device_id for r in response.results] == fleet[:50]
    assert (await operator.get("j")).execution_counts.succeeded == 50


async def test_message_that_waits_for_the_memory_limit_is_not_applied_when_the_server_stops(
    database: Database, operator: Operator, fleet: list[str]
) -> None:
    small = {
        "JOBS_MAX_REQUEST_BYTES": "196608",
        "JOBS_MAX_BUFFERED_BYTES": "1048576",
        "JOBS_MAX_TENANT_BUFFERED_BYTES": "1048576",
        "JOBS_SHUTDOWN_GRACE": "600",
    }
    async with running_server(database.request_dsn, **small, **METRICS_ON) as stopping_server:

        async def message_waits() -> bool:
            metrics = await scrape(stopping_server.app.metrics_address)
            return metrics.value("jobs_buffered_bytes_waiting") == 1

        stub: Any = device_jobs_pb2_grpc.DeviceJobServiceStub(stopping_server.channel)
        stream = stub.ReportExecutions(metadata=(("x-tenant-id", operator.tenant),))
        async with job_lock_held(database, operator.tenant, "j"):
            # The row of a single report counts as six documents of 32 KiB.
            for device in fleet[:10]:
                update: Any = {"job_id": "j", "status": "SUCCEEDED"}
                await stream.write(
                    device_pb.ReportExecutionsRequest(device_id=device, report=update)
                )
            await wait_until(message_waits)
            stopping_server.app.stopping.set()
        answered = 0
        with expect_failure(StatusCode.UNAVAILABLE, "SERVER_STOPPING"):
            async for response in stream:
                assert response.execution.status == pb.JobExecution.SUCCEEDED
                answered += 1

    assert 0 < answered < 10
    assert (await operator.get("j")).execution_counts.succeeded == answered


class _HeldBatcher(UpdateBatcher):
    """Holds updates until `released` is set, and then fails them."""

    def __init__(self) -> None:
        self.released = asyncio.Event()

    async def update_all(self, tenant_id: str, updates: Iterable[Any]) -> list[Any]:
        await self.released.wait()
        return [Internal() for _ in updates]


async def test_reading_stops_when_256_reports_of_a_stream_are_in_flight() -> None:
    """The limit counts reports, not messages."""
    read = 0

    async def requests() -> AsyncIterator[device_pb.ReportExecutionsRequest]:
        nonlocal read
        for _ in range(6):
            read += 1
            yield message(*(report("d", "SUCCEEDED") for _ in range(100)))

    batcher, caller = _HeldBatcher(), Principal("t", frozenset({Role.BRIDGE}))
    memory = MemoryLimit(1 << 30, 1 << 30)
    stopping = asyncio.Event()
    stream = ReportStream(batcher, Mock(), memory, FairSlots(1), 1000, stopping, caller)
    context: Any = AsyncMock()
    running = asyncio.create_task(stream.run(requests(), context))
    for _ in range(100):
        await asyncio.sleep(0)

    assert read == 3  # Two are in flight, and the third one waits.
    assert memory.held > 3 * 100 * 4096
    batcher.released.set()
    await running
    assert read == 6
    assert memory.held == 0
    responses = [
        device_pb.ReportExecutionsResponse.FromString(call.args[0])
        for call in context.write.await_args_list
    ]
    assert [len(response.results) for response in responses] == [100] * 6


async def test_calls_run_while_a_large_message_is_converted() -> None:
    """Streams of two tenants take turns, and other tasks run between the slots."""
    details = Struct()
    details.update({f"{number:03}": None for number in range(100)})
    large = message(*(report("d", "IN_PROGRESS", status_details=details) for _ in range(100)))
    slots, steps = FairSlots(1), list[str]()

    class Recorder(ReportStream):
        async def _parse(self, report: Any, *, with_details: bool) -> Any:
            steps.append(self._caller.tenant_id)
            return await super()._parse(report, with_details=with_details)

    async def requests() -> AsyncIterator[device_pb.ReportExecutionsRequest]:
        yield large

    async def other_calls() -> None:
        while True:
            steps.append("other")
            await asyncio.sleep(0)

    batcher = _HeldBatcher()
    batcher.released.set()
    memory = MemoryLimit(1 << 30, 1 << 30)
    calling = asyncio.create_task(other_calls())
    async with asyncio.TaskGroup() as group:
        for tenant in ("a", "b"):
            caller = Principal(tenant, frozenset({Role.BRIDGE}))
            stream = Recorder(batcher, Mock(), memory, slots, 10_000, asyncio.Event(), caller)
            group.create_task(stream.run(requests(), AsyncMock()))
    calling.cancel()

    runs = [name for name, _ in itertools.groupby(steps)]
    converting = [name for name in runs if name != "other"]
    assert converting == ["a", "b"] * (len(converting) // 2)
    assert len(converting) > 20
    assert all("other" in pair for pair in itertools.pairwise(runs))


async def test_memory_is_released_when_a_stream_is_canceled_before_a_response_begins() -> None:
    """A client can send a message and disconnect at once: both arrive together."""

    async def requests() -> AsyncIterator[device_pb.ReportExecutionsRequest]:
        running.cancel()
        yield message(report("d", "SUCCEEDED"))
        await asyncio.Event().wait()

    caller = Principal("t", frozenset({Role.BRIDGE}))
    memory = MemoryLimit(1 << 30, 1 << 30)
    slots, stopping = FairSlots(1), asyncio.Event()
    stream = ReportStream(_HeldBatcher(), Mock(), memory, slots, 1000, stopping, caller)
    running = asyncio.create_task(stream.run(requests(), AsyncMock()))

    await asyncio.wait({running})
    assert running.cancelled()
    assert memory.held == 0
