"""WatchJob: the job now, and again on each change, until it is over."""

import logging
from collections.abc import AsyncIterator
from typing import Any

import pytest
from fleet.jobs.v1 import jobs_pb2 as pb
from grpc import StatusCode

from jobs_grpc.db.migrate import RequestRole
from tests.support.callers import Operator
from tests.support.database import Database
from tests.support.failures import expect_failure
from tests.support.server import Server, running_server
from tests.support.waiting import TIMEOUT, wait_until


def watch(operator: Operator, job_id: str) -> AsyncIterator[pb.Job]:
    """The jobs of an open watch."""
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
    """The only device of the test's tenant, with a job "j" QUEUED."""
    await database.add_devices(operator.tenant, ["pump"])
    await operator.create(job_id="j", target_all=True, document_params={"n": 1})
    return server.device(operator.tenant, "pump")


async def test_it_follows_a_job_to_its_completion(operator: Operator, device: Any) -> None:
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


async def test_a_job_that_is_over_is_answered_once(operator: Operator, device: Any) -> None:
    await operator.cancel("j")

    jobs = [job async for job in watch(operator, "j")]

    assert [job.status for job in jobs] == [pb.Job.CANCELED]


async def test_expiry_ends_it(database: Database, operator: Operator, device: Any) -> None:
    jobs = watch(operator, "j")
    await anext(jobs)

    await database.expire(operator.tenant, "j")

    assert [job.status async for job in jobs] == [pb.Job.COMPLETED]


async def test_other_tenants_and_unknown_jobs_are_not_found(
    server: Server, operator: Operator, device: Any
) -> None:
    for stranger, job_id in ((operator, "missing"), (server.operator("other-tenant"), "j")):
        with expect_failure(StatusCode.NOT_FOUND, "JOB_NOT_FOUND"):
            await anext(watch(stranger, job_id))


async def test_many_watchers_are_all_told(operator: Operator, device: Any) -> None:
    watches = [watch(operator, "j") for _ in range(20)]
    for jobs in watches:
        await anext(jobs)

    await device.start("j")

    for jobs in watches:
        assert (await anext(jobs)).execution_counts == pb.ExecutionCounts(in_progress=1)


async def test_it_outlives_the_sessions_it_is_read_with(
    database: Database, operator: Operator, device: Any
) -> None:
    jobs = watch(operator, "j")
    await anext(jobs)

    await database.owner.execute(
        "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE usename = $1"
        " AND datname = current_database()",
        RequestRole.of_dsn(database.request_dsn).name,
    )
    await database.set_status(operator.tenant, "j", "pump", "IN_PROGRESS")

    assert (await anext(jobs)).execution_counts == pb.ExecutionCounts(in_progress=1)


async def test_a_stop_ends_it(database: Database, operator: Operator, device: Any) -> None:
    async with running_server(database.request_dsn, JOBS_SHUTDOWN_GRACE="600") as own:
        jobs = watch(own.operator(operator.tenant), "j")
        await anext(jobs)
        own.app.stopping.set()

        with expect_failure(StatusCode.UNAVAILABLE, "SERVER_STOPPING"):
            await anext(jobs)


async def test_a_client_that_leaves_is_logged_as_that(
    operator: Operator, device: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "jobs_grpc.calls")
    jobs = watch(operator, "j")
    await anext(jobs)
    await jobs.aclose()  # type: ignore[attr-defined]  # it is a generator

    lines: list[str] = []

    async def logged() -> bool:
        # Of this tenant: those of other tests' watches may come late.
        own = [r for r in caplog.records if vars(r).get("tenant") == operator.tenant]
        lines[:] = [r.getMessage() for r in own if "WatchJob" in r.getMessage()]
        return bool(lines)

    await wait_until(logged)
    assert lines == ["WatchJob CANCELLED"]
    assert "cut off" not in caplog.text
