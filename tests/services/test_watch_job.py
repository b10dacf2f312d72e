"""WatchJob: the current job, then each change until it is finished."""

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import Any, cast
from unittest.mock import AsyncMock

import pytest
from fleet.jobs.v1 import jobs_pb2 as pb
from grpc import StatusCode

from jobs_grpc.db.connection_pool import prepare_connection
from jobs_grpc.db.migrate import RequestRole
from jobs_grpc.errors import ServerStopping
from jobs_grpc.limits.memory_limit import MemoryLimit, Reservation
from jobs_grpc.services import watch_hub
from jobs_grpc.services.job_watch import JobWatch
from tests.support.callers import Operator
from tests.support.database import Database, request_session
from tests.support.failures import expect_failure
from tests.support.server import Server, running_server
from tests.support.waiting import TIMEOUT, wait_until

MIB = 1024 * 1024


async def pause(_: str) -> None:
    """Let other calls run."""
    await asyncio.sleep(0)


def watch(operator: Operator, job_id: str) -> AsyncIterator[pb.Job]:
    """Open a watch and iterate over its jobs."""
    request = pb.WatchJobRequest(job_id=job_id)
    stub: Any = operator.stub
    call = stub.WatchJob(request, metadata=operator.metadata, timeout=TIMEOUT)

    async def jobs() -> AsyncIterator[pb.Job]:
        try:
            async for response in call:
                yield response.job
        finally:
            call.cancel()

    return jobs()


@pytest.fixture
async def device(database: Database, server: Server, operator: Operator) -> Any:
    """The only device of the test's tenant, with a QUEUED execution of job "j"."""
    await database.add_devices(operator.tenant, ["pump"])
    await operator.create(job_id="j", target_all=True, document_params={"n": 1})
    return server.device(operator.tenant, "pump")


async def test_watch_sends_pause_and_resume_and_does_not_end(
    operator: Operator, device: Any
) -> None:
    jobs = watch(operator, "j")
    await anext(jobs)

    await operator.pause("j", reason="error rate")
    paused = await anext(jobs)
    await operator.resume("j")
    resumed = await anext(jobs)

    assert (paused.status, paused.pause.reason) == (pb.Job.PAUSED, "error rate")
    assert (resumed.status, resumed.HasField("pause")) == (pb.Job.IN_PROGRESS, False)


async def test_watch_sends_each_change_until_the_job_completes(
    operator: Operator, device: Any
) -> None:
    jobs = watch(operator, "j")

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


async def test_watch_sends_what_the_failure_criteria_count(
    database: Database, server: Server, operator: Operator
) -> None:
    await database.add_devices(operator.tenant, ["a", "b"])
    criterion = pb.FailureCriterion(percent=100, basis=pb.FailureCriterion.TARGETED)
    await operator.create(job_id="j", target_all=True, failure_criteria=[criterion])
    jobs = watch(operator, "j")
    first = await anext(jobs)

    await server.device(operator.tenant, "a").update("j", "FAILED")
    second = await anext(jobs)

    state = pb.CriterionState(failure_count=0, basis_count=2, threshold=2)
    assert list(first.criterion_states) == [state]
    state.failure_count = 1
    assert list(second.criterion_states) == [state]


async def test_watch_sends_a_finished_job_once(operator: Operator, device: Any) -> None:
    await operator.cancel("j")

    jobs = [job async for job in watch(operator, "j")]

    assert [job.status for job in jobs] == [pb.Job.CANCELED]


async def test_watch_ends_when_the_job_expires(
    database: Database, operator: Operator, device: Any
) -> None:
    jobs = watch(operator, "j")
    await anext(jobs)

    await database.expire(operator.tenant, "j")

    assert [job.status async for job in jobs] == [pb.Job.COMPLETED]


async def test_watch_is_rejected_when_job_does_not_exist_in_the_tenant(
    server: Server, operator: Operator, device: Any
) -> None:
    for caller, job_id in ((operator, "missing"), (server.operator("other-tenant"), "j")):
        with expect_failure(StatusCode.NOT_FOUND, "JOB_NOT_FOUND"):
            await anext(watch(caller, job_id))


async def test_all_watches_of_a_job_receive_a_change(operator: Operator, device: Any) -> None:
    watches = [watch(operator, "j") for _ in range(20)]
    for jobs in watches:
        await anext(jobs)

    await device.start("j")

    for jobs in watches:
        assert (await anext(jobs)).execution_counts == pb.ExecutionCounts(in_progress=1)


async def test_watch_continues_when_database_sessions_are_terminated(
    database: Database, operator: Operator, device: Any
) -> None:
    jobs = watch(operator, "j")
    await anext(jobs)

    await database.owner.execute(
        "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE usename = $1"
        " AND datname = current_database()",
        RequestRole.from_dsn(database.request_dsn).name,
    )
    await database.set_status(operator.tenant, "j", "pump", "IN_PROGRESS")

    assert (await anext(jobs)).execution_counts == pb.ExecutionCounts(in_progress=1)


async def test_watch_ends_with_server_stopping_when_the_server_stops(
    database: Database, operator: Operator, device: Any
) -> None:
    async with running_server(database.request_dsn, JOBS_SHUTDOWN_GRACE="600") as server:
        jobs = watch(server.operator(operator.tenant), "j")
        await anext(jobs)
        server.app.stopping.set()

        with expect_failure(StatusCode.UNAVAILABLE, "SERVER_STOPPING"):
            await anext(jobs)


async def test_watch_is_logged_as_canceled_when_the_client_cancels(
    operator: Operator, device: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "jobs_grpc.calls")
    jobs = watch(operator, "j")
    await anext(jobs)
    await jobs.aclose()  # type: ignore[attr-defined]  # it is a generator

    lines: list[str] = []

    async def is_logged() -> bool:
        # Only records of this tenant, because watches of other tests may be logged late.
        records = [
            r for r in caplog.records if vars(r).get("fields", {}).get("tenant") == operator.tenant
        ]
        lines[:] = [r.getMessage() for r in records if "WatchJob" in r.getMessage()]
        return bool(lines)

    await wait_until(is_logged)
    assert lines == ["WatchJob CANCELLED"]
    assert "canceled because the server is stopping" not in caplog.text


async def test_write_of_the_same_server_is_sent_before_the_next_poll(
    operator: Operator, device: Any
) -> None:
    jobs = watch(operator, "j")
    await anext(jobs)
    clock = asyncio.get_running_loop().time
    began = clock()

    for number in range(8):
        await (operator.pause("j") if number % 2 == 0 else operator.resume("j"))
        await anext(jobs)

    assert clock() - began < 8 * watch_hub.POLL_INTERVAL / 2


async def test_watch_that_waits_for_bytes_ends_when_the_server_stops(
    database: Database, operator: Operator, device: Any
) -> None:
    memory = MemoryLimit(MIB, MIB)
    slow = Reservation(memory, operator.tenant)
    slow.set_size(MIB)
    stopping = asyncio.Event()

    async def waits_for_bytes() -> bool:
        return memory.waiting > 0

    async with request_session(database) as (connection, store):
        await prepare_connection(connection)
        jobs = JobWatch(store, memory, 32768, stopping, pause)
        watching = asyncio.create_task(jobs.run(operator.tenant, "j", AsyncMock()))
        await wait_until(waits_for_bytes)

        stopping.set()

        with pytest.raises(ServerStopping):
            await watching


async def test_watch_that_waited_for_bytes_gets_the_current_state(
    database: Database, operator: Operator, device: Any
) -> None:
    received: asyncio.Queue[pb.Job] = asyncio.Queue()
    memory = MemoryLimit(MIB, MIB)
    slow = Reservation(memory, operator.tenant)
    slow.set_size(MIB)

    async def write(response: bytes) -> None:
        received.put_nowait(pb.WatchJobResponse.FromString(response).job)

    async def waits_for_bytes() -> bool:
        return memory.waiting > 0

    async with request_session(database) as (connection, store):
        await prepare_connection(connection)
        jobs = JobWatch(store, memory, 32768, asyncio.Event(), pause, 0.01)
        watching = asyncio.create_task(jobs.run(operator.tenant, "j", write))
        await wait_until(waits_for_bytes)
        await operator.pause("j")
        slow.release()

        job = await received.get()
        watching.cancel()
        await asyncio.wait({watching})

    assert job.status == pb.Job.PAUSED
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


async def test_calls_run_while_large_states_are_converted(
    database: Database, operator: Operator, device: Any
) -> None:
    """A pause after each 32 KiB: four jobs of 20 KiB need two."""
    tenants: list[str] = []
    names = [f"large-{n}" for n in range(4)]
    for name in names:
        await operator.create(
            job_id=name, target_all=True, document_params={"a": name + "x" * 20_000}
        )

    async def count_pause(tenant_id: str) -> None:
        tenants.append(tenant_id)

    async with request_session(database) as (connection, store):
        await prepare_connection(connection)
        jobs = JobWatch(store, MemoryLimit(MIB, MIB), 32768, asyncio.Event(), count_pause, 3600)
        received: asyncio.Queue[bytes] = asyncio.Queue()
        watching = [
            asyncio.create_task(jobs.run(operator.tenant, name, received.put)) for name in names
        ]
        for _ in names:
            await received.get()
        for task in watching:
            task.cancel()
        await asyncio.wait(watching)

    assert tenants == [operator.tenant] * 2
