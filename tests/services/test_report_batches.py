"""ReportExecutions: what holds for messages with several reports, and the stream's limits."""

import asyncio
import itertools
import logging
from collections.abc import AsyncIterator, Iterable
from typing import Any
from unittest.mock import AsyncMock, Mock

import pytest
from fleet.jobs.v1 import device_jobs_pb2 as device_pb
from fleet.jobs.v1 import error_reason_pb2
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
from tests.support.failures import expect_error
from tests.support.metrics import METRICS_ON, scrape_until
from tests.support.report_streams import message, report, reporting, respond, single
from tests.support.server import running_server
from tests.support.waiting import wait_until_true
from tests.support.world import World


@pytest.fixture
async def devices(world: World) -> list[str]:
    """The devices of the test's tenant, with a job "j" for all of them."""
    devices = [f"d{n:03}" for n in range(120)]
    await world.add_devices(devices)
    await world.create()
    return devices


async def test_message_with_101_reports_is_rejected(world: World, devices: list[str]) -> None:
    too_many = [report(device, "SUCCEEDED") for device in devices[:101]]

    async with reporting(world.server, world.tenant) as stream:
        rejected = await respond(stream, message(*too_many))
        accepted = await respond(stream, message(*too_many[:1]))

    assert rejected.error == device_pb.ItemError(
        code=StatusCode.INVALID_ARGUMENT.value[0],
        reason=error_reason_pb2.INVALID_FIELD,
        message="reports must have at most 100 elements",
    )
    assert not rejected.results
    assert accepted.results[0].execution.device_id == "d000"
    assert (await world.operator.counts())["succeeded"] == 1


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
    world: World, devices: list[str], fields: dict[str, Any]
) -> None:
    request = device_pb.ReportExecutionsRequest(reports=[report("d000", "SUCCEEDED")], **fields)

    async with reporting(world.server, world.tenant) as stream:
        rejected = await respond(stream, request)
        accepted = await respond(stream, message(report("d002", "SUCCEEDED")))

    assert rejected.report_id == fields.get("report_id", "")
    assert rejected.error.code == StatusCode.INVALID_ARGUMENT.value[0]
    problem = "reports must be empty if report_id, device_id or report is set"
    assert rejected.error.message == problem
    assert not rejected.results
    assert accepted.results[0].execution.device_id == "d002"
    assert await world.operator.counts() == {"queued": 119, "succeeded": 1}


async def test_reports_that_are_not_sent_are_not_applied_when_the_stream_is_canceled(
    world: World, devices: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    """The first report of each device is in the database; the second one waits for it."""
    caplog.set_level(logging.INFO, "jobs_grpc.calls")
    reports = [
        report(device, status)
        for status in ("IN_PROGRESS", "SUCCEEDED")
        for device in ("d000", "d001")
    ]
    async with world.lock_held():
        async with reporting(world.server, world.tenant) as stream:
            await stream.write(message(*reports))
            await world.database.wait_for_blocked_sessions(1)

        await wait_until_true(lambda: "ReportExecutions CANCELLED" in caplog.text)
    # Updates of a device are applied in order, so this one follows those of the stream.
    await world.device("d001").update("j", "IN_PROGRESS")

    assert await world.operator.counts() == {"queued": 118, "in_progress": 2}


async def test_message_is_answered_when_the_server_stops(world: World, devices: list[str]) -> None:
    async with (
        running_server(world.database.request_dsn, JOBS_SHUTDOWN_GRACE="600") as stopping_server,
        reporting(stopping_server, world.tenant) as stream,
    ):
        async with world.lock_held():
            await stream.write(message(*(report(d, "SUCCEEDED") for d in devices[:50])))
            await world.database.wait_for_blocked_sessions(1)
            stopping_server.app.stopping.set()
        response: Any = await stream.read()
        await expect_error("SERVER_STOPPING", stream.read())

    assert [r.execution.device_id for r in response.results] == devices[:50]
    assert (await world.operator.counts())["succeeded"] == 50


async def test_message_that_waits_is_dropped_at_the_stop(world: World, devices: list[str]) -> None:
    small = {
        "JOBS_MAX_REQUEST_BYTES": "196608",
        "JOBS_MAX_BUFFERED_BYTES": "1048576",
        "JOBS_MAX_TENANT_BUFFERED_BYTES": "1048576",
        "JOBS_SHUTDOWN_GRACE": "600",
    }
    answered = 0
    async with running_server(world.database.request_dsn, **small, **METRICS_ON) as stopping_server:

        async def read() -> None:
            nonlocal answered
            async for response in stream:
                assert response.execution.status == pb.JobExecution.SUCCEEDED
                answered += 1

        async with reporting(stopping_server, world.tenant) as stream:
            async with world.lock_held():
                # The row of a single report counts as six documents of 32 KiB.
                for device in devices[:10]:
                    await stream.write(single(report(device, "SUCCEEDED")))
                await scrape_until(
                    stopping_server.app.metrics_address,
                    lambda read: read.value("jobs_buffered_bytes_waiting") == 1,
                )
                stopping_server.app.stopping.set()
            await expect_error("SERVER_STOPPING", read())

    assert 0 < answered < 10
    assert (await world.operator.counts())["succeeded"] == answered


class _HeldBatcher(UpdateBatcher):
    """Holds updates until `released` is set, and then fails them."""

    def __init__(self) -> None:
        self.released = asyncio.Event()

    async def update_all(self, tenant_id: str, updates: Iterable[Any]) -> list[Any]:
        await self.released.wait()
        return [Internal() for _ in updates]


def _parts(
    batcher: UpdateBatcher,
    memory: MemoryLimit,
    slots: FairSlots | None = None,
    max_document_bytes: int = 1000,
    tenant: str = "t",
) -> tuple[Any, ...]:
    """The arguments of a ReportStream of a bridge."""
    caller = Principal(tenant, frozenset({Role.BRIDGE}))
    slots = slots or FairSlots(1)
    return batcher, Mock(), memory, slots, max_document_bytes, asyncio.Event(), caller


async def test_reading_stops_when_256_reports_of_a_stream_are_in_flight() -> None:
    """The limit counts reports, not messages."""
    read = 0

    async def requests() -> AsyncIterator[device_pb.ReportExecutionsRequest]:
        nonlocal read
        for _ in range(6):
            read += 1
            yield message(*(report("d", "SUCCEEDED") for _ in range(100)))

    batcher, memory = _HeldBatcher(), MemoryLimit(1 << 30, 1 << 30)
    stream = ReportStream(*_parts(batcher, memory))
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
            stream = Recorder(*_parts(batcher, memory, slots, 10_000, tenant))
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

    memory = MemoryLimit(1 << 30, 1 << 30)
    stream = ReportStream(*_parts(_HeldBatcher(), memory))
    running = asyncio.create_task(stream.run(requests(), AsyncMock()))

    await asyncio.wait({running})
    assert running.cancelled()
    assert memory.held == 0
