"""CreateJob with replaces_job_id, concurrent with other calls on the replaced job "j"."""

import asyncio
import os
import signal
from typing import Any

import grpc
import pytest
from fleet.jobs.v1 import jobs_pb2 as pb
from fleet.jobs.v1 import jobs_pb2_grpc

from tests.support.callers import Device, Operator
from tests.support.failures import expect_error
from tests.support.scale import scaled
from tests.support.server_process import running_server_process
from tests.support.world import World

REPLACES: dict[str, Any] = {"job_id": "n", "target_all": True, "replaces_job_id": "j"}
PAIRS = scaled(5)
_TERMINATE_ONE = """
    SELECT pg_terminate_backend(pid) FROM pg_stat_activity
    WHERE usename = $1 AND datname = current_database() AND state = 'active'
    ORDER BY random() LIMIT 1
"""


@pytest.fixture(autouse=True)
async def old_job(world: World, pump: Device) -> None:
    await world.create()
    await pump.update("j", "FAILED")


async def test_retry_fails_after_the_replacement(world: World, operator: Operator) -> None:
    create, retry = operator.create(**REPLACES), operator.retry("j", "FAILED")

    await world.second_fails("JOB_NOT_RETRYABLE", create, retry)

    assert await operator.counts("j") == {"failed": 1, "rejected": 1}


async def test_replacement_cancels_what_a_retry_has_queued(
    world: World, operator: Operator
) -> None:
    retry, create = operator.retry("j", "FAILED"), operator.create(**REPLACES)

    for task in await world.lock_in_order(retry, create):
        await task

    assert await operator.status("j") == "CANCELED"
    assert await operator.counts("j") == {"rejected": 2}


async def test_job_that_finishes_before_the_replacement_is_only_linked(
    world: World, operator: Operator
) -> None:
    report, create = world.device("valve").update("j", "SUCCEEDED"), operator.create(**REPLACES)

    for task in await world.lock_in_order(report, create):
        await task

    job = await operator.get("j")
    assert (job.status, job.replaced_by_job_id) == (pb.Job.COMPLETED, "n")


async def test_create_fails_when_the_job_is_deleted_before_it_is_locked(
    world: World, operator: Operator
) -> None:
    await operator.cancel("j")

    deleted = operator.delete("j")
    failure = await world.second_fails("JOB_NOT_FOUND", deleted, operator.create(**REPLACES))

    assert failure.metadata == {"jobId": "j"}
    await expect_error("JOB_NOT_FOUND", operator.get("n"))


async def test_equal_creates_replace_the_job_once(world: World, operator: Operator) -> None:
    tasks = await world.lock_in_order(operator.create(**REPLACES), operator.create(**REPLACES))

    first, second = [await task for task in tasks]
    assert first == second


@pytest.mark.slow
@pytest.mark.parametrize("killed", ["server", "sessions"])
async def test_replacement_happens_completely_or_not_at_all_when_it_is_killed(
    world: World, operator: Operator, killed: str
) -> None:
    """Each job is replaced and retried at the same time.

    After some replacements, the server is killed, or after each one a session of the database.
    """
    names = [f"j{n}" for n in range(PAIRS)]
    for name in names:
        await world.create(name)
        await world.pump.update(name, "FAILED")
    deadlocks = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"
    before = await world.database.owner.fetchval(deadlocks)
    created: set[str] = set()

    async with running_server_process(world.database.request_dsn) as process:
        caller = Operator(jobs_pb2_grpc.JobServiceStub(process.channel), world.tenant)

        async def replace(name: str) -> None:
            await caller.create(**REPLACES | {"job_id": f"{name}-new", "replaces_job_id": name})
            created.add(name)
            if killed == "sessions":
                await world.database.owner.execute(_TERMINATE_ONE, world.database.role.name)
            elif len(created) > PAIRS // 2:
                os.kill(process.pid, signal.SIGKILL)

        slots = asyncio.Semaphore(20)  # The server refuses more calls of a tenant.

        async def run(call: Any, name: str) -> None:
            async with slots:
                await call(name)

        calls = [run(call, name) for name in names for call in (replace, _retrying(caller))]
        results = await asyncio.gather(*calls, return_exceptions=True)
    await world.database.wait_for_idle_sessions()

    failed = {e.code() for e in results if isinstance(e, grpc.aio.AioRpcError)}
    assert failed <= {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.FAILED_PRECONDITION}
    assert await world.database.owner.fetchval(deadlocks) == before
    jobs = {job.job_id: job for job in (await operator.list(limit=200)).jobs}
    replaced = {name for name in names if f"{name}-new" in jobs}
    assert created <= replaced
    for name in names:
        states = (pb.Job.CANCELED, f"{name}-new") if name in replaced else (pb.Job.IN_PROGRESS, "")
        assert (jobs[name].status, jobs[name].replaced_by_job_id) == states


def _retrying(operator: Operator) -> Any:
    return lambda name: operator.retry(name, "FAILED")
