"""WatchJob: the current job, then each change until it is finished."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, cast
from unittest.mock import AsyncMock

import pytest
from fleet.jobs.v1 import jobs_pb2 as pb

from jobs_grpc.errors import ServerStopping
from jobs_grpc.limits.memory_limit import MemoryLimit, Reservation
from jobs_grpc.services import job_watch as watch_module
from jobs_grpc.services.job_watch import JobWatch
from tests.support.callers import Device, Operator
from tests.support.database import Database, shared_store
from tests.support.failures import expect_error
from tests.support.server import Server
from tests.support.waiting import wait_until_true
from tests.support.watch_hubs import polling_server
from tests.support.world import World

MIB = 1024 * 1024


async def pause(_: str) -> None:
    """Let other calls run."""
    await asyncio.sleep(0)


@pytest.fixture(scope="module")
async def server(database: Database) -> AsyncIterator[Server]:
    async with polling_server(database, watch_module) as running:
        yield running


@pytest.fixture(autouse=True)
async def device(world: World) -> Device:
    """The only device of the test's tenant, with a QUEUED execution of job "j"."""
    await world.add_devices(["pump"])
    await world.create(document_params={"n": 1})
    return world.device("pump")


@asynccontextmanager
async def job_watch(
    world: World,
    memory: MemoryLimit,
    *options: Any,
    stopping: asyncio.Event | None = None,
    pause: Callable[[str], Awaitable[None]] = pause,
) -> AsyncIterator[JobWatch]:
    async with shared_store(world.database) as store:
        yield JobWatch(store, memory, 32768, stopping or asyncio.Event(), pause, *options)


async def wait_until_bytes_are_awaited(memory: MemoryLimit) -> None:
    await wait_until_true(lambda: memory.waiting > 0)


async def test_watch_sends_changes_until_the_job_ends(operator: Operator, device: Device) -> None:
    jobs = operator.watch()

    first = await anext(jobs)
    await device.start("j")
    second = await anext(jobs)
    await device.update("j", "SUCCEEDED")
    third = await anext(jobs)

    assert first.execution_counts == pb.ExecutionCounts(queued=1)
    assert first.document_params == {"n": 1}
    assert second.execution_counts == pb.ExecutionCounts(in_progress=1)
    assert third.status == pb.Job.COMPLETED
    assert third.HasField("completed_at")
    with pytest.raises(StopAsyncIteration):
        await anext(jobs)


async def test_watch_sends_what_the_failure_criteria_count(world: World) -> None:
    await world.add_devices(["valve"])
    criterion = pb.FailureCriterion(percent=100, basis=pb.FailureCriterion.TARGETED)
    await world.create("k", failure_criteria=[criterion])
    jobs = world.operator.watch("k")
    first = await anext(jobs)

    await world.device("valve").update("k", "FAILED")
    second = await anext(jobs)

    for job, failures in ((first, 0), (second, 1)):
        state = pb.CriterionState(failure_count=failures, basis_count=2, threshold=2)
        assert list(job.criterion_states) == [state]


async def test_watch_sends_a_finished_job_once(operator: Operator) -> None:
    await operator.cancel("j")

    assert [job.status async for job in operator.watch()] == [pb.Job.CANCELED]


async def test_watch_ends_when_the_job_expires(world: World) -> None:
    jobs = world.operator.watch()
    await anext(jobs)

    await world.expire()

    assert [job.status async for job in jobs] == [pb.Job.COMPLETED]


async def test_watch_is_rejected_when_the_job_does_not_exist(operator: Operator) -> None:
    await expect_error("JOB_NOT_FOUND", anext(operator.watch("missing")))


async def test_watch_continues_when_database_sessions_are_terminated(world: World) -> None:
    jobs = world.operator.watch()
    await anext(jobs)

    await world.database.terminate_request_sessions()
    await world.database.set_status(world.tenant, "j", "pump", "IN_PROGRESS")

    assert (await anext(jobs)).execution_counts == pb.ExecutionCounts(in_progress=1)


async def test_watch_ends_with_server_stopping_when_the_server_stops(world: World) -> None:
    async with world.on_another_server(JOBS_SHUTDOWN_GRACE="600") as other:
        jobs = other.operator.watch()
        await anext(jobs)
        other.server.app.stopping.set()

        await expect_error("SERVER_STOPPING", anext(jobs))


async def test_watch_is_logged_as_canceled_when_the_client_cancels(
    operator: Operator, device: Device, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "jobs_grpc.calls")
    jobs = operator.watch()
    await anext(jobs)
    await jobs.aclose()

    def lines() -> list[str]:
        # Only records of this tenant, because watches of other tests may be logged late.
        records = [
            r for r in caplog.records if vars(r).get("fields", {}).get("tenant") == operator.tenant
        ]
        return [r.getMessage() for r in records if "WatchJob" in r.getMessage()]

    await wait_until_true(lambda: bool(lines()))
    assert lines() == ["WatchJob CANCELLED"]
    assert "canceled because the server is stopping" not in caplog.text


async def test_own_write_is_sent_before_poll(world: World) -> None:
    async with polling_server(world.database, watch_module, 3600) as server:
        operator = server.operator(world.tenant)
        jobs = operator.watch()
        await anext(jobs)

        await operator.pause("j", reason="error rate")
        paused = await anext(jobs)
        await operator.resume("j")
        resumed = await anext(jobs)
        await jobs.aclose()

    assert (paused.status, paused.pause.reason) == (pb.Job.PAUSED, "error rate")
    assert (resumed.status, resumed.HasField("pause")) == (pb.Job.IN_PROGRESS, False)


async def test_watch_that_waits_for_bytes_ends_when_the_server_stops(world: World) -> None:
    memory = MemoryLimit(MIB, MIB)
    Reservation(memory, world.tenant).set_size(MIB)
    stopping = asyncio.Event()

    async with job_watch(world, memory, stopping=stopping) as jobs:
        watching = asyncio.create_task(jobs.run(world.tenant, "j", AsyncMock()))
        await wait_until_bytes_are_awaited(memory)

        stopping.set()

        with pytest.raises(ServerStopping):
            await watching


async def test_watch_that_waited_for_bytes_gets_the_current_state(world: World) -> None:
    received: asyncio.Queue[bytes] = asyncio.Queue()
    memory = MemoryLimit(MIB, MIB)
    slow = Reservation(memory, world.tenant)
    slow.set_size(MIB)

    async with job_watch(world, memory, 0.01) as jobs:
        watching = asyncio.create_task(jobs.run(world.tenant, "j", received.put))
        await wait_until_bytes_are_awaited(memory)
        await world.operator.pause("j")
        slow.release()

        response = pb.WatchJobResponse.FromString(await received.get())
        watching.cancel()
        await asyncio.wait({watching})

    assert response.job.status == pb.Job.PAUSED
    assert received.empty()
    assert memory.held == 0


async def test_poll_that_waits_for_the_database_holds_no_bytes() -> None:
    memory = MemoryLimit(MIB, MIB)
    polling = asyncio.Event()

    class Busy:
        """A store that waits for a database connection."""

        def on_write(self, _: object) -> None:
            """Call no listener."""

        async def changed_job_fingerprints(self, *_: object, **__: object) -> None:
            polling.set()
            await asyncio.Event().wait()

    jobs = JobWatch(cast("Any", Busy()), memory, 32768, asyncio.Event(), pause)
    watching = asyncio.create_task(jobs.run("tenant", "j", AsyncMock()))
    await polling.wait()

    assert memory.held == 0
    watching.cancel()
    await asyncio.wait({watching})


async def test_calls_run_while_large_states_are_converted(world: World) -> None:
    """A pause after each 32 KiB: four jobs of 20 KiB need two."""
    tenants: list[str] = []
    names = [f"large-{n}" for n in range(4)]
    for name in names:
        await world.create(name, document_params={"a": name + "x" * 20_000})

    async def count_pause(tenant_id: str) -> None:
        tenants.append(tenant_id)

    async with job_watch(world, MemoryLimit(MIB, MIB), 3600, pause=count_pause) as jobs:
        received: asyncio.Queue[bytes] = asyncio.Queue()
        watching = [
            asyncio.create_task(jobs.run(world.tenant, name, received.put)) for name in names
        ]
        for _ in names:
            await received.get()
        for task in watching:
            task.cancel()
        await asyncio.wait(watching)

    assert tenants == [world.tenant] * 2
