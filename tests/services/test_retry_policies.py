"""Retry policies: a failed execution is queued again as the next attempt."""

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest
from fleet.jobs.v1 import jobs_pb2 as pb
from google.protobuf.duration_pb2 import Duration

from jobs_grpc.db.store import ExecutionUpdate
from tests.support.callers import Device
from tests.support.database import Database, replaced_function, request_session
from tests.support.failures import expect_error
from tests.support.retry_policies import rule, set_policy
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
        """A device by its number."""
        return self.device(f"d{number:05}")

    async def report(self, status: str, attempt: int, **fields: Any) -> None:
        """Report a status for an attempt of the first device."""
        await self.numbered().update("j", status, execution_number=attempt, **fields)

    async def fail(self, *numbers: int, **fields: Any) -> None:
        """Report FAILED for the first attempts of these devices."""
        for number in numbers:
            await self.numbered(number).update("j", "FAILED", **fields)

    async def get(self) -> pb.Job:
        """Read the job."""
        return await self.operator.get("j")

    async def device_status(self, number: int = 1) -> str:
        """The status of the execution of a device."""
        return pb.JobExecution.Status.Name((await self.numbered(number).get("j")).status)

    async def wait_for_backoff(self) -> None:
        """Let the longest backoff of the default rule pass."""
        await self.pass_time(301)


async def create(world: World, *rules: pb.RetryRule, devices: int = 3, **fields: Any) -> Job:
    """Create the job for that many devices."""
    await world.add_devices(devices)
    policy = pb.RetryPolicy(rules=rules or [rule()])
    await world.operator.create(job_id="j", target_all=True, retry_policy=policy, **fields)
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
async def test_only_an_equal_report_of_the_attempt_that_ended_is_repeated(
    job: Job, number: dict[str, int]
) -> None:
    device = job.numbered()
    first = await device.update("j", "FAILED", failure_code="E1", **number)

    assert await device.update("j", "FAILED", failure_code="E1", **number) == first

    assert (await device.get("j")).version == 3
    assert (await job.get()).retrying_count == 1
    other = device.update("j", "FAILED", failure_code="E2", **number)
    failure = await expect_error("EXECUTION_CHANGED", other)
    assert failure.current is not None
    assert failure.current.execution_number == 2


async def test_report_of_the_second_attempt_needs_the_number(job: Job) -> None:
    await job.fail(1)
    await job.wait_for_backoff()
    device = job.numbered()
    await device.start("j")

    # Also a report that is equal to the one of the first attempt.
    for status in ("IN_PROGRESS", "SUCCEEDED", "FAILED"):
        await expect_error("EXECUTION_CHANGED", device.update("j", status))

    answer = await device.update("j", "SUCCEEDED", execution_number=2)
    assert answer.status == pb.JobExecution.SUCCEEDED


async def test_device_starts_the_next_attempt_after_the_backoff(job: Job) -> None:
    await job.fail(1)
    device = job.numbered()

    assert await device.start_next() is None
    assert not (await device.pending()).executions
    await expect_error("EXECUTION_NOT_DUE", device.start("j"))

    await job.wait_for_backoff()
    assert (await device.start_next_response()).execution.execution_number == 2
    retries = "SELECT retries FROM jobs.job_progress WHERE tenant_id = $1"
    assert await job.owner_value(retries) == 1, "a start takes no retry back"


async def test_backoff_grows_up_to_its_maximum(world: World) -> None:
    backoff = rule(max_attempts=10, initial=60, multiplier=3, longest=1000)
    job = await create(world, backoff)

    wait = (
        "SELECT not_before - failed_at FROM jobs.job_executions"
        " WHERE tenant_id = $1 AND failed_at IS NOT NULL"
    )
    waits = []
    for attempt in range(1, 5):
        await job.report("FAILED", attempt)
        waits.append(await job.owner_value(wait))

    assert waits == [timedelta(seconds=seconds) for seconds in (60, 180, 540, 1000)]


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


async def test_failure_of_the_last_attempt_is_final(job: Job) -> None:
    for attempt in (1, 2, 3):
        await job.report("FAILED", attempt)

    final = await job.numbered().get("j")
    assert (final.status, final.execution_number) == (FAILED, 3)
    state = await job.get()
    assert state.retrying_count == 0
    assert state.execution_counts == pb.ExecutionCounts(queued=2, failed=1)


async def test_job_completes_only_without_attempts(job: Job) -> None:
    for number in (2, 3):
        await job.numbered(number).update("j", "SUCCEEDED")

    await job.fail(1)
    assert await job.operator.status() == "IN_PROGRESS"

    await job.report("SUCCEEDED", 2)
    assert await job.operator.status() == "COMPLETED"


# Rules, a failure, and the number of attempts that the first rule that matches it allows.
MATCHES: list[tuple[list[dict[str, Any]], str, str, int]] = [
    ([{}], "FAILED", "E1", 3),
    ([{"codes": ["E2"]}], "FAILED", "E1", 1),
    ([{"codes": ["E1"], "max_attempts": 2}, {"max_attempts": 4}], "FAILED", "E1", 2),
    ([{"codes": ["E1"], "max_attempts": 2}, {"max_attempts": 4}], "FAILED", "", 4),
    ([{"codes": [""]}], "FAILED", "", 3),
    ([{"statuses": ["TIMED_OUT"]}], "FAILED", "", 1),
    ([{}], "REJECTED", "E1", 1),
    ([{"statuses": ["FAILED", "REJECTED"], "codes": ["E1"]}], "REJECTED", "E1", 3),
    ([{"statuses": ["FAILED", "REJECTED"], "codes": ["E1"]}], "REJECTED", "", 1),
]


@pytest.mark.parametrize(("rules", "status", "code", "attempts"), MATCHES)
async def test_first_rule_that_matches_decides(
    world: World, rules: list[dict[str, Any]], status: str, code: str, attempts: int
) -> None:
    job = await create(world, *(rule(**fields) for fields in rules))

    for attempt in range(1, attempts + 1):
        await job.report(status, attempt, failure_code=code)

    final = await job.numbered().get("j")
    assert pb.JobExecution.Status.Name(final.status) == status
    assert final.execution_number == attempts


async def test_timeout_queues_the_next_attempt(world: World) -> None:
    job = await create(world, in_progress_timeout_minutes=1)
    await job.numbered().start("j")
    await world.database.make_overdue(world.tenant, "j")

    await world.owner_value("SELECT jobs.time_out_executions($1, 'j', '{d00001}', 1000)")

    attempts = await world.operator.attempts("j", "d00001")
    assert [a.status for a in attempts] == [QUEUED, pb.JobExecution.TIMED_OUT]
    assert (await job.get()).retrying_count == 1


async def test_cancel_ends_attempts_that_wait(job: Job) -> None:
    await job.fail(1, 2)
    await job.wait_for_backoff()
    await job.numbered(2).start("j")

    await job.operator.cancel("j")

    assert await job.device_status(1) == "REJECTED"
    state = await job.get()
    assert state.execution_counts == pb.ExecutionCounts(in_progress=1, rejected=2)
    assert state.retrying_count == 1  # the device that is IN_PROGRESS


async def test_failure_is_final_if_an_attempt_could_start_only_after_expiry(world: World) -> None:
    backoff = rule(initial=3600, longest=3600)
    job = await create(world, backoff, expires_in_hours=1)
    await world.pass_time(60)

    await job.fail(1)

    assert await job.device_status() == "FAILED"
    assert (await job.get()).retrying_count == 0


async def test_failure_is_final_if_no_start_window_opens_before_the_expiry(world: World) -> None:
    # It opened a minute ago or less.
    now = await world.database.owner.fetchval("SELECT jobs.clock_time() AT TIME ZONE 'UTC'")
    window = pb.StartWindow(start_time=now.strftime("%H:%M"), duration=Duration(seconds=1200))
    job = await create(world, rule(initial=1200), expires_in_hours=1, start_windows=[window])

    await job.fail(1)

    assert await job.device_status() == "FAILED"


async def test_expiry_ends_attempts_that_wait(job: Job) -> None:
    await job.fail(1)

    await job.expire()

    assert await job.device_status() == "TIMED_OUT"
    state = await job.get()
    assert state.status == pb.Job.COMPLETED
    assert state.execution_counts == pb.ExecutionCounts(timed_out=3)
    assert state.retrying_count == 0
    # The device still counts as failed.
    [failure] = (await job.operator.failures("j")).failures
    assert (failure.status, failure.execution_count) == (FAILED, 1)


async def test_paused_job_queues_the_next_attempt(job: Job) -> None:
    await job.operator.pause("j")
    await job.fail(1)
    await job.wait_for_backoff()
    assert await job.numbered().start_next() is None

    await job.operator.resume("j")

    assert (await job.numbered().start_next_response()).execution.execution_number == 2


async def test_first_failure_trips_a_criterion(world: World) -> None:
    job = await create(world, failure_criteria=[pb.FailureCriterion(count=2)])

    await job.fail(1, 2)

    state = await job.get()
    assert state.status == pb.Job.PAUSED
    assert (state.trip.failure_count, state.retrying_count) == (2, 2)


async def test_device_counts_once_and_not_after_a_success(world: World) -> None:
    job = await create(world, failure_criteria=[pb.FailureCriterion(count=3)])

    async def failures() -> tuple[int, list[tuple[str, int]]]:
        [state] = (await job.get()).criterion_states
        summary = (await world.operator.failures("j")).failures
        return state.failure_count, [(f.failure_code, f.execution_count) for f in summary]

    await job.fail(1, failure_code="E1")
    assert await failures() == (1, [("E1", 1)])
    await job.report("FAILED", 2, failure_code="E2")
    assert await failures() == (1, [("E2", 1)])
    await job.report("SUCCEEDED", 3)
    assert await failures() == (0, [])


async def test_failure_before_a_resume_leaves_the_counts_of_before(world: World) -> None:
    criterion = pb.FailureCriterion(percent=50, min_finished=1)
    job = await create(world, failure_criteria=[criterion])
    await job.fail(1)
    await world.operator.resume("j")

    await job.report("SUCCEEDED", 2)

    [state] = (await job.get()).criterion_states
    assert (state.failure_count, state.basis_count) == (0, 1)


async def test_stage_is_not_finished_while_attempts_remain(world: World) -> None:
    await world.add_devices(3)
    policy = pb.RetryPolicy(rules=[rule()])
    job = await world.create_staged({"device_count": 1}, {"remainder": True}, retry_policy=policy)

    async def stages() -> list[tuple[bool, int]]:
        """Whether each stage has opened, and how many of its executions are retried."""
        return [(s.HasField("opened_at"), s.retrying_count) for s in (await job.get()).stages]

    await job.device(0).update("j", "FAILED")
    assert await stages() == [(True, 1), (False, 0)]

    await job.device(0).update("j", "SUCCEEDED", execution_number=2)
    assert await stages() == [(True, 0), (True, 0)]


async def test_failures_are_final_beyond_the_retry_budget(world: World) -> None:
    job = await create(world, devices=22)
    await job.fail(*range(1, 21))
    assert not (await job.get()).is_retry_budget_exhausted

    await job.fail(21)

    state = await job.get()
    assert state.is_retry_budget_exhausted
    assert state.retrying_count == 20
    assert await job.device_status(21) == "FAILED"
    # Also that of a device that has been retried before.
    await job.report("FAILED", 2)
    assert await job.device_status() == "FAILED"


async def test_retry_budget_counts_each_device_of_a_batch_once(world: World) -> None:
    """Devices that were retried before are counted already."""
    job = await create(world, devices=21)
    await job.fail(*range(1, 20))
    reports = [
        ExecutionUpdate("j", f"d{number:05}", "FAILED", execution_number=2)
        for number in range(1, 20)
    ]

    async with request_session(world.database) as (_, store):
        await store.update_executions(
            world.tenant, [*reports, ExecutionUpdate("j", "d00020", "FAILED")], wait_ms=30000
        )

    assert (await job.get()).retrying_count == 20


@pytest.mark.slow
async def test_retry_budget_grows_with_the_released_executions(world: World) -> None:
    await world.add_devices(300)
    policy = pb.RetryPolicy(rules=[rule()])
    job = await world.create_staged({"device_count": 220}, {"remainder": True}, retry_policy=policy)
    for device in job.devices(0)[:23]:
        await device.update("j", "FAILED")
    state = await job.get()
    assert (state.retrying_count, state.is_retry_budget_exhausted) == (22, True)

    await job.operator.advance("j")

    assert not (await job.get()).is_retry_budget_exhausted
    await job.device(0, 23).update("j", "FAILED")
    assert (await job.get()).retrying_count == 23


async def test_retry_executions_takes_a_device_that_waits(job: Job) -> None:
    await job.fail(1, failure_code="E1")
    await job.fail(2, failure_code="E2")

    response = await job.operator.retry("j", "FAILED", failure_codes=["E1"])

    assert response.retried_count == 1
    assert (await job.numbered(1).start_next_response()).execution.execution_number == 2
    assert await job.numbered(2).start_next() is None
    state = await job.get()
    assert state.retrying_count == 1
    [failure] = (await job.operator.failures("j")).failures
    assert failure.failure_code == "E2"


async def test_retry_executions_starts_a_new_series(job: Job) -> None:
    for attempt in (1, 2, 3):
        await job.report("FAILED", attempt)
    await job.operator.retry("j", "FAILED")

    for attempt in (4, 5):
        await job.report("FAILED", attempt)
        assert await job.device_status() == "QUEUED"

    await job.report("FAILED", 6)
    assert await job.device_status() == "FAILED"


async def test_failure_is_final_after_the_job_is_canceled(job: Job) -> None:
    await job.numbered().start("j")
    await job.operator.cancel("j")

    await job.fail(1)

    assert await job.device_status() == "FAILED"
    assert (await job.get()).retrying_count == 0


async def test_operator_cancels_an_attempt_that_waits(job: Job) -> None:
    await job.fail(1)

    await job.operator.cancel_execution("j", "d00001")

    state = await job.get()
    assert state.execution_counts == pb.ExecutionCounts(queued=2, rejected=1)
    assert state.retrying_count == 0


async def test_retried_failure_tells_others_of_the_free_slot(world: World) -> None:
    """A failure that is queued again finishes no execution, but it frees the slot."""
    job = await create(world, rollout=rollout({"remainder": True}, max_in_progress=1))
    others = (
        "SELECT array_agg(state) FROM jobs.pending_executions"
        " WHERE tenant_id = $1 AND device_id <> 'd00001'"
    )
    before = await job.owner_value(others)
    await job.numbered().start("j")
    await job.report("FAILED", 1)

    after = await job.owner_value(others)
    assert len(after) == 2
    assert not {*before} & {*after}


async def test_failures_are_final_after_the_policy_is_removed(job: Job) -> None:
    await job.fail(1)
    state = await set_policy(job.operator, "j")
    assert not state.HasField("retry_policy")

    await job.fail(2)

    assert await job.device_status(2) == "FAILED"
    # The attempt that waits stays queued, and its report still needs the number.
    await job.wait_for_backoff()
    assert await job.numbered(1).start_next() is not None
    await expect_error("EXECUTION_CHANGED", job.numbered(1).update("j", "FAILED"))
