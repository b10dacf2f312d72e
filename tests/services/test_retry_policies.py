"""Retry policies: a failed execution is queued again as the next attempt."""

import json
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest
from fleet.jobs.v1 import jobs_pb2 as pb
from grpc import StatusCode

from tests.support.callers import Device, Operator
from tests.support.database import Database, replaced_function
from tests.support.failures import expect_failure
from tests.support.retry_policies import rule, set_policy
from tests.support.server import Server
from tests.support.staged_jobs import rollout

FAILED, QUEUED = pb.JobExecution.FAILED, pb.JobExecution.QUEUED


@pytest.fixture(scope="module", autouse=True)
async def longest_backoff(database: Database) -> AsyncIterator[None]:
    """Let each backoff have its maximum instead of a random length."""
    async with replaced_function(
        database,
        "jobs.jitter",
        "CREATE OR REPLACE FUNCTION jobs.jitter() RETURNS double precision LANGUAGE sql VOLATILE"
        " RETURN 1",
    ):
        yield


async def windows_around_now(database: Database, *, minutes: int) -> list[pb.StartWindow]:
    """A start window that opened a minute ago or less, for a job in UTC."""
    now = await database.owner.fetchval("SELECT jobs.clock_time() AT TIME ZONE 'UTC'")
    window = pb.StartWindow(start_time=now.strftime("%H:%M"))
    window.duration.seconds = minutes * 60
    return [window]


class Job:
    """The job "j" of all devices of a tenant, with a retry policy."""

    def __init__(self, database: Database, server: Server, operator: Operator) -> None:
        self.database, self.server, self.operator = database, server, operator

    def device(self, number: int = 1) -> Device:
        """A device by its number."""
        return self.server.device(self.operator.tenant, f"d{number:05}")

    async def fail(self, *numbers: int, **fields: Any) -> None:
        """Report FAILED for the first attempts of these devices."""
        for number in numbers:
            await self.device(number).update("j", "FAILED", **fields)

    async def get(self) -> pb.Job:
        """Read the job."""
        return await self.operator.get("j")

    async def wait_for_backoff(self) -> None:
        """Let the longest backoff of the default rule pass."""
        await self.database.pass_time(301)


async def create(
    database: Database,
    server: Server,
    operator: Operator,
    *rules: pb.RetryRule,
    devices: int = 3,
    **fields: Any,
) -> Job:
    """Create the job for that many devices."""
    await database.add_devices(operator.tenant, devices)
    policy = pb.RetryPolicy(rules=rules or [rule()])
    await operator.create(job_id="j", target_all=True, retry_policy=policy, **fields)
    return Job(database, server, operator)


@pytest.fixture
async def job(database: Database, server: Server, operator: Operator) -> Job:
    """A job of three devices that retries twice, after at most five minutes."""
    return await create(database, server, operator)


async def test_failure_queues_the_next_attempt(job: Job) -> None:
    device = job.device()
    await device.start("j")

    await device.update("j", "FAILED", failure_code="E1")

    after = await device.get("j")
    assert (after.status, after.execution_number, after.version) == (QUEUED, 2, 4)
    assert not after.HasField("started_at")
    assert not after.HasField("failure_code")
    state = await job.get()
    assert state.status == pb.Job.IN_PROGRESS
    assert state.execution_counts == pb.ExecutionCounts(queued=3)
    assert state.retrying_count == 1
    attempts = await job.operator.attempts("j", device.name)
    assert [(a.status, a.failure_code) for a in attempts] == [(QUEUED, ""), (FAILED, "E1")]


async def test_answer_is_the_attempt_that_ended(job: Job) -> None:
    device = job.device()
    await device.start("j")

    answer = await device.update("j", "FAILED", failure_code="E1", status_details={"code": 7})

    assert (answer.status, answer.execution_number, answer.version) == (FAILED, 1, 3)
    assert (answer.failure_code, dict(answer.status_details)) == ("E1", {"code": 7})
    assert answer.HasField("started_at")


@pytest.mark.parametrize("number", [{"execution_number": 1}, {}], ids=["number", "no number"])
async def test_repeated_report_returns_the_attempt_that_ended(
    job: Job, number: dict[str, int]
) -> None:
    first = await job.device().update("j", "FAILED", failure_code="E1", **number)

    assert await job.device().update("j", "FAILED", failure_code="E1", **number) == first

    assert (await job.device().get("j")).version == 3
    assert (await job.get()).retrying_count == 1


@pytest.mark.parametrize("number", [{"execution_number": 1}, {}], ids=["number", "no number"])
async def test_other_report_of_the_attempt_that_ended_is_rejected(
    job: Job, number: dict[str, int]
) -> None:
    await job.fail(1, failure_code="E1")

    with expect_failure(StatusCode.ABORTED, "EXECUTION_CHANGED") as failure:
        await job.device().update("j", "FAILED", failure_code="E2", **number)

    assert failure.current is not None
    assert failure.current.execution_number == 2


async def test_report_of_the_second_attempt_needs_the_number(job: Job) -> None:
    await job.fail(1)
    await job.wait_for_backoff()
    device = job.device()
    await device.start("j")

    # Also a report that is equal to the one of the first attempt.
    for status in ("IN_PROGRESS", "SUCCEEDED", "FAILED"):
        with expect_failure(StatusCode.ABORTED, "EXECUTION_CHANGED"):
            await device.update("j", status)

    answer = await device.update("j", "SUCCEEDED", execution_number=2)
    assert answer.status == pb.JobExecution.SUCCEEDED


async def test_device_starts_the_next_attempt_after_the_backoff(job: Job) -> None:
    await job.fail(1)
    device = job.device()

    assert await device.start_next() is None
    assert not (await device.pending()).executions
    with expect_failure(StatusCode.FAILED_PRECONDITION, "EXECUTION_NOT_DUE"):
        await device.start("j")

    await job.wait_for_backoff()
    started = await device.start_next()
    assert started is not None
    assert started.execution_number == 2
    retries = await job.database.owner.fetchval(
        "SELECT retries FROM jobs.job_progress WHERE tenant_id = $1", job.operator.tenant
    )
    assert retries == 1, "a start takes no retry back"


async def test_backoff_grows_up_to_its_maximum(
    database: Database, server: Server, operator: Operator
) -> None:
    backoff = rule(max_attempts=10, initial=60, multiplier=3, longest=1000)
    job = await create(database, server, operator, backoff)

    waits = []
    for attempt in range(1, 5):
        await job.device().update("j", "FAILED", execution_number=attempt)
        waits.append(
            await database.owner.fetchval(
                "SELECT not_before - failed_at FROM jobs.job_executions"
                " WHERE tenant_id = $1 AND failed_at IS NOT NULL",
                operator.tenant,
            )
        )

    assert waits == [timedelta(seconds=seconds) for seconds in (60, 180, 540, 1000)]


async def test_backoff_is_random(database: Database) -> None:
    policy = {"initial_backoff_seconds": 64, "backoff_multiplier": 2, "max_backoff_seconds": 1000}
    async with replaced_function(
        database,
        "jobs.jitter",
        "CREATE OR REPLACE FUNCTION jobs.jitter() RETURNS double precision LANGUAGE sql VOLATILE"
        " RETURN pg_catalog.random()",
    ):
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
        answer = await job.device().update("j", "FAILED", execution_number=attempt)
        assert answer.execution_number == attempt

    final = await job.device().get("j")
    assert (final.status, final.execution_number) == (FAILED, 3)
    state = await job.get()
    assert state.retrying_count == 0
    assert state.execution_counts == pb.ExecutionCounts(queued=2, failed=1)


async def test_job_completes_only_without_attempts(job: Job) -> None:
    for number in (2, 3):
        await job.device(number).update("j", "SUCCEEDED")

    await job.fail(1)
    assert (await job.get()).status == pb.Job.IN_PROGRESS

    await job.device().update("j", "SUCCEEDED", execution_number=2)
    assert (await job.get()).status == pb.Job.COMPLETED


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
    database: Database,
    server: Server,
    operator: Operator,
    rules: list[dict[str, Any]],
    status: str,
    code: str,
    attempts: int,
) -> None:
    job = await create(database, server, operator, *(rule(**fields) for fields in rules))

    for attempt in range(1, attempts + 1):
        await job.device().update("j", status, failure_code=code, execution_number=attempt)

    final = await job.device().get("j")
    assert pb.JobExecution.Status.Name(final.status) == status
    assert final.execution_number == attempts


async def test_timeout_queues_the_next_attempt(
    database: Database, server: Server, operator: Operator
) -> None:
    job = await create(database, server, operator, in_progress_timeout_minutes=1)
    await job.device().start("j")
    await database.make_overdue(operator.tenant, "j")

    await database.owner.execute(
        "SELECT jobs.time_out_executions($1, 'j', '{d00001}', 1000)", operator.tenant
    )

    attempts = await operator.attempts("j", "d00001")
    assert [a.status for a in attempts] == [QUEUED, pb.JobExecution.TIMED_OUT]
    assert (await job.get()).retrying_count == 1


async def test_failure_is_final_in_a_canceled_job(job: Job) -> None:
    await job.device().start("j")
    await job.operator.cancel("j")

    await job.fail(1)

    assert (await job.device().get("j")).status == FAILED


async def test_cancel_ends_attempts_that_wait(job: Job) -> None:
    await job.fail(1, 2)
    await job.wait_for_backoff()
    await job.device(2).start("j")

    await job.operator.cancel("j")

    assert (await job.device(1).get("j")).status == pb.JobExecution.REJECTED
    state = await job.get()
    assert state.execution_counts == pb.ExecutionCounts(in_progress=1, rejected=2)
    assert state.retrying_count == 1  # the device that is IN_PROGRESS


async def test_failure_is_final_if_the_attempt_could_start_only_after_the_expiry(
    database: Database, server: Server, operator: Operator
) -> None:
    backoff = rule(initial=3600, longest=3600)
    job = await create(database, server, operator, backoff, expires_in_hours=1)
    await database.pass_time(60)

    await job.fail(1)

    assert (await job.device().get("j")).status == FAILED
    assert (await job.get()).retrying_count == 0


async def test_failure_is_final_if_no_start_window_opens_before_the_expiry(
    database: Database, server: Server, operator: Operator
) -> None:
    windows = await windows_around_now(database, minutes=20)
    job = await create(
        database, server, operator, rule(initial=1200), expires_in_hours=1, start_windows=windows
    )

    await job.fail(1)

    assert (await job.device().get("j")).status == FAILED


async def test_expiry_ends_attempts_that_wait(job: Job) -> None:
    await job.fail(1)

    await job.database.expire(job.operator.tenant, "j")

    assert (await job.device().get("j")).status == pb.JobExecution.TIMED_OUT
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
    assert await job.device().start_next() is None

    await job.operator.resume("j")

    started = await job.device().start_next()
    assert started is not None
    assert started.execution_number == 2


async def test_first_failure_trips_a_criterion(
    database: Database, server: Server, operator: Operator
) -> None:
    criterion = pb.FailureCriterion(count=2)
    job = await create(database, server, operator, failure_criteria=[criterion])

    await job.fail(1, 2)

    state = await job.get()
    assert state.status == pb.Job.PAUSED
    assert (state.trip.failure_count, state.retrying_count) == (2, 2)


async def test_device_counts_once_and_not_after_a_success(
    database: Database, server: Server, operator: Operator
) -> None:
    criterion = pb.FailureCriterion(count=3)
    job = await create(database, server, operator, failure_criteria=[criterion])

    async def failures() -> tuple[int, list[tuple[str, int]]]:
        [state] = (await job.get()).criterion_states
        summary = (await operator.failures("j")).failures
        return state.failure_count, [(f.failure_code, f.execution_count) for f in summary]

    await job.fail(1, failure_code="E1")
    assert await failures() == (1, [("E1", 1)])
    await job.device().update("j", "FAILED", failure_code="E2", execution_number=2)
    assert await failures() == (1, [("E2", 1)])
    await job.device().update("j", "SUCCEEDED", execution_number=3)
    assert await failures() == (0, [])


async def test_failure_before_a_resume_leaves_the_counts_of_before(
    database: Database, server: Server, operator: Operator
) -> None:
    criterion = pb.FailureCriterion(percent=50, min_finished=1)
    job = await create(database, server, operator, failure_criteria=[criterion])
    await job.fail(1)
    await operator.resume("j")

    await job.device().update("j", "SUCCEEDED", execution_number=2)

    [state] = (await job.get()).criterion_states
    assert (state.failure_count, state.basis_count) == (0, 1)


async def test_stage_is_not_finished_while_attempts_remain(
    database: Database, server: Server, operator: Operator
) -> None:
    await database.add_devices(operator.tenant, 3)
    await operator.create(
        job_id="j",
        target_all=True,
        rollout=rollout({"device_count": 1}, {"remainder": True}),
        retry_policy=pb.RetryPolicy(rules=[rule()]),
    )
    [first] = [e for e in (await operator.get("j")).executions if e.status == QUEUED]
    device = server.device(operator.tenant, first.device_id)

    await device.update("j", "FAILED")
    stages = (await operator.get("j")).stages
    assert [stage.HasField("opened_at") for stage in stages] == [True, False]
    assert [stage.retrying_count for stage in stages] == [1, 0]

    await device.update("j", "SUCCEEDED", execution_number=2)
    stages = (await operator.get("j")).stages
    assert [stage.HasField("opened_at") for stage in stages] == [True, True]
    assert [stage.retrying_count for stage in stages] == [0, 0]


async def test_failures_are_final_beyond_the_retry_budget(
    database: Database, server: Server, operator: Operator
) -> None:
    job = await create(database, server, operator, devices=22)
    await job.fail(*range(1, 21))
    assert not (await job.get()).is_retry_budget_exhausted

    await job.fail(21)

    state = await job.get()
    assert state.is_retry_budget_exhausted
    assert state.retrying_count == 20
    assert (await job.device(21).get("j")).status == FAILED
    # Also that of a device that has been retried before.
    await job.device(1).update("j", "FAILED", execution_number=2)
    assert (await job.device(1).get("j")).status == FAILED


@pytest.mark.slow
async def test_retry_budget_grows_with_the_released_executions(
    database: Database, server: Server, operator: Operator
) -> None:
    await database.add_devices(operator.tenant, 300)
    await operator.create(
        job_id="j",
        target_all=True,
        rollout=rollout({"device_count": 220}, {"remainder": True}),
        retry_policy=pb.RetryPolicy(rules=[rule()]),
    )
    executions = (await operator.get("j", executions_limit=500)).executions
    devices = [e.device_id for e in executions if e.status == QUEUED]
    assert len(devices) == 220

    for name in devices[:23]:
        await server.device(operator.tenant, name).update("j", "FAILED")
    state = await operator.get("j")
    assert (state.retrying_count, state.is_retry_budget_exhausted) == (22, True)

    await operator.advance("j")

    assert not (await operator.get("j")).is_retry_budget_exhausted
    await server.device(operator.tenant, devices[23]).update("j", "FAILED")
    assert (await operator.get("j")).retrying_count == 23


async def test_retry_executions_takes_a_device_that_waits(job: Job) -> None:
    await job.fail(1, failure_code="E1")
    await job.fail(2, failure_code="E2")

    response = await job.operator.retry("j", "FAILED", failure_codes=["E1"])

    assert response.retried_count == 1
    started = await job.device(1).start_next()
    assert started is not None
    assert started.execution_number == 2
    assert await job.device(2).start_next() is None
    state = await job.get()
    assert state.retrying_count == 1
    [failure] = (await job.operator.failures("j")).failures
    assert failure.failure_code == "E2"


async def test_retry_executions_starts_a_new_series(job: Job) -> None:
    for attempt in (1, 2, 3):
        await job.device().update("j", "FAILED", execution_number=attempt)
    await job.operator.retry("j", "FAILED")

    for attempt in (4, 5):
        await job.device().update("j", "FAILED", execution_number=attempt)
        assert (await job.device().get("j")).status == QUEUED

    await job.device().update("j", "FAILED", execution_number=6)
    assert (await job.device().get("j")).status == FAILED


async def test_operator_cancels_an_attempt_that_waits(job: Job) -> None:
    await job.fail(1)

    await job.operator.cancel_execution("j", "d00001")

    state = await job.get()
    assert state.execution_counts == pb.ExecutionCounts(queued=2, rejected=1)
    assert state.retrying_count == 0


async def test_retried_failure_tells_others_of_the_free_slot(
    database: Database, server: Server, operator: Operator
) -> None:
    """A failure that is queued again finishes no execution, but it frees the slot."""
    job = await create(
        database, server, operator, rollout=rollout({"remainder": True}, max_in_progress=1)
    )
    names = [f"d{n:05}" for n in (1, 2, 3)]

    async def state_of_others() -> list[str]:
        rows = await database.owner.fetch(
            "SELECT state FROM jobs.pending_executions WHERE tenant_id = $1 AND device_id <> $2"
            " ORDER BY device_id",
            operator.tenant,
            names[0],
        )
        return [row["state"] for row in rows]

    before = await state_of_others()
    await job.device(1).start("j")
    await job.device(1).update("j", "FAILED", execution_number=1)

    after = await state_of_others()
    assert len(after) == 2
    assert not {*before} & {*after}


async def test_failures_are_final_after_the_policy_is_removed(job: Job) -> None:
    await job.fail(1)
    state = await set_policy(job.operator, "j")
    assert not state.HasField("retry_policy")

    await job.fail(2)

    assert (await job.device(2).get("j")).status == FAILED
    # The attempt that waits stays queued, and its report still needs the number.
    await job.wait_for_backoff()
    assert await job.device(1).start_next() is not None
    with expect_failure(StatusCode.ABORTED, "EXECUTION_CHANGED"):
        await job.device(1).update("j", "FAILED")
