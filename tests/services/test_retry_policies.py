"""Retry policies: a failed execution is queued again as the next attempt."""

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import pytest
from fleet.jobs.v1 import jobs_pb2 as pb
from google.protobuf.duration_pb2 import Duration

from tests.support.callers import Device
from tests.support.database import Database, replaced_function
from tests.support.failures import expect_error
from tests.support.retry_policies import rule
from tests.support.staged_jobs import rollout
from tests.support.world import World

FAILED, QUEUED = pb.JobExecution.FAILED, pb.JobExecution.QUEUED

_JITTER = (
    "CREATE OR REPLACE FUNCTION jobs.jitter() RETURNS double precision LANGUAGE sql VOLATILE RETURN"
)


@pytest.fixture(scope="module", autouse=True)
async def longest_backoff(database: Database) -> AsyncIterator[None]:
    """Let each backoff have its maximum instead of a random length."""
    async with replaced_function(database, "jobs.jitter", f"{_JITTER} 1"):
        yield


@dataclass(frozen=True)
class Job(World):
    """The job "j" of all devices of a tenant, with a retry policy."""

    def numbered(self, number: int = 1) -> Device:
        return self.device(f"d{number:05}")

    async def fail(self, number: int = 1, **fields: Any) -> str:
        """Report that a device failed; return the status of its execution after that."""
        await self.numbered(number).update("j", "FAILED", **fields)
        return pb.JobExecution.Status.Name((await self.numbered(number).get("j")).status)

    async def get(self) -> pb.Job:
        return await self.operator.get("j")


async def create(world: World, *rules: pb.RetryRule, **fields: Any) -> Job:
    """Create the job for three devices."""
    await world.add_devices(3)
    await world.create(retry_policy=pb.RetryPolicy(rules=rules or [rule()]), **fields)
    return Job(world.database, world.server, world.operator)


@pytest.fixture
async def job(world: World) -> Job:
    """A job of three devices that retries twice, after at most five minutes."""
    return await create(world)


async def test_failure_returns_the_attempt_that_ended_and_queues_the_next(job: Job) -> None:
    device = job.numbered()
    await device.start("j")

    ended = await device.update("j", "FAILED", failure_code="E1", status_details={"code": 7})

    assert (ended.status, ended.execution_number, ended.version) == (FAILED, 1, 3)
    assert (ended.failure_code, dict(ended.status_details)) == ("E1", {"code": 7})
    assert ended.HasField("started_at")
    after = await device.get("j")
    assert (after.status, after.execution_number, after.version) == (QUEUED, 2, 4)
    assert not after.HasField("started_at")
    assert not after.HasField("failure_code")
    state = await job.get()
    assert (state.status, state.retrying_count) == (pb.Job.IN_PROGRESS, 1)
    assert state.execution_counts == pb.ExecutionCounts(queued=3)
    attempts = await job.operator.attempts("j", device.name)
    assert [(a.status, a.failure_code) for a in attempts] == [(QUEUED, ""), (FAILED, "E1")]


@pytest.mark.parametrize("number", [{"execution_number": 1}, {}], ids=["number", "no number"])
async def test_only_an_equal_report_of_an_end_is_repeated(job: Job, number: dict[str, int]) -> None:
    device = job.numbered()
    first = await device.update("j", "FAILED", failure_code="E1", **number)

    assert await device.update("j", "FAILED", failure_code="E1", **number) == first

    assert (await device.get("j")).version == 3
    assert (await job.get()).retrying_count == 1
    other = device.update("j", "FAILED", failure_code="E2", **number)
    failure = await expect_error("EXECUTION_CHANGED", other)
    assert failure.current is not None
    assert failure.current.execution_number == 2


async def test_device_starts_the_next_attempt_after_the_backoff(job: Job) -> None:
    await job.fail()
    device = job.numbered()

    assert await device.start_next() is None
    assert not (await device.pending()).executions
    await expect_error("EXECUTION_NOT_DUE", device.start("j"))

    await job.pass_time(301)
    assert (await device.start_next_response()).execution.execution_number == 2
    retries = "SELECT retries FROM jobs.job_progress WHERE tenant_id = $1"
    assert await job.owner_value(retries) == 1, "a start takes no retry back"
    # A report needs the number of the attempt, even if it equals the one of the first attempt.
    for status in ("IN_PROGRESS", "SUCCEEDED", "FAILED"):
        await expect_error("EXECUTION_CHANGED", device.update("j", status))
    await device.update("j", "SUCCEEDED", execution_number=2)


async def test_backoff_is_random(database: Database) -> None:
    policy = {"initial_backoff_seconds": 64, "backoff_multiplier": 2, "max_backoff_seconds": 1000}
    async with replaced_function(database, "jobs.jitter", f"{_JITTER} pg_catalog.random()"):
        rows = await database.owner.fetch(
            "SELECT jobs.retry_backoff($1, 1) AS delay FROM generate_series(1, 1000)",
            json.dumps(policy),
        )

    delays = sorted(row["delay"].total_seconds() for row in rows)
    assert 0 <= delays[0] < 8
    assert 120 < delays[-1] <= 128
    assert 50 < delays[500] < 78


@pytest.mark.parametrize(
    ("devices", "released", "is_exceeded"),
    [(20, 22, False), (21, 22, True), (22, 220, False), (23, 220, True)],
)
async def test_retry_budget_is_20_devices_or_a_tenth_of_the_released_ones(
    database: Database, devices: int, released: int, *, is_exceeded: bool
) -> None:
    sql = "SELECT jobs.exceeds_retry_budget($1, $2)"
    assert await database.owner.fetchval(sql, devices, released) is is_exceeded


async def test_failure_is_final_if_no_start_window_opens_before_the_expiry(world: World) -> None:
    # It opened a minute ago or less.
    now = await world.database.owner.fetchval("SELECT jobs.clock_time() AT TIME ZONE 'UTC'")
    window = pb.StartWindow(start_time=now.strftime("%H:%M"), duration=Duration(seconds=1200))
    job = await create(world, rule(initial=1200), expires_in_hours=1, start_windows=[window])

    assert await job.fail() == "FAILED"


async def test_retried_failure_tells_others_of_the_free_slot(world: World) -> None:
    """A failure that is queued again finishes no execution, but it frees the slot."""
    job = await create(world, rollout=rollout({"remainder": True}, max_in_progress=1))
    others = (
        "SELECT array_agg(state) FROM jobs.pending_executions"
        " WHERE tenant_id = $1 AND device_id <> 'd00001'"
    )
    before = await job.owner_value(others)
    await job.numbered().start("j")
    await job.fail()

    after = await job.owner_value(others)
    assert len(after) == 2
    assert not {*before} & {*after}
