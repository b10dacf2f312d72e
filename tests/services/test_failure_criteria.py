"""Failure criteria: what they count, when they trip, and what happens then."""

import asyncio
import json
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from fleet.jobs.v1 import jobs_pb2 as pb
from grpc import StatusCode

from jobs_grpc.db.store import ExecutionUpdate
from jobs_grpc.errors import InvalidField
from jobs_grpc.maintenance.sweeper import Sweeper
from tests.support.callers import Operator
from tests.support.database import Database, job_lock_held, request_session, rows_locked
from tests.support.failures import expect_failure
from tests.support.rows_read import rows_read
from tests.support.server import Server

FAILED_PRECONDITION = StatusCode.FAILED_PRECONDITION
CRITERION = pb.FailureCriterion

Report = Callable[..., Coroutine[Any, Any, list[str]]]


@pytest.fixture
async def report(database: Database, operator: Operator) -> Report:
    """A function that sends (device, status, code) as one batch, and returns the outcomes.

    The devices d00001 to d00040 have an execution of each job that a test creates for all.
    """
    await database.add_devices(operator.tenant, 40)

    async def send(*updates: tuple[int, str | None] | tuple[int, str, str]) -> list[str]:
        batch = [
            ExecutionUpdate("j", f"d{update[0]:05}", update[1], failure_code=code)
            for update in updates
            for code in [update[2] if len(update) == 3 else None]
        ]
        async with request_session(database) as (_, store):
            rows = await store.update_executions(operator.tenant, batch, wait_ms=60_000)
        return [row["outcome"] for row in rows]

    return send


async def create(operator: Operator, *criteria: dict[str, Any], **fields: Any) -> None:
    """Create job "j" for all devices with these failure criteria."""
    await operator.create(
        job_id="j",
        target_all=True,
        failure_criteria=[CRITERION(**criterion) for criterion in criteria],
        **fields,
    )


async def status(operator: Operator) -> str:
    """The status of job "j"."""
    return pb.Job.Status.Name((await operator.get("j")).status)


async def criterion_counts(database: Database, operator: Operator) -> list[tuple[int, ...]]:
    """The criterion, stage, failures and finished_before of each row of counts."""
    rows = await database.owner.fetch(
        "SELECT criterion, stage, failures, finished_before FROM jobs.job_criterion_counts"
        " WHERE tenant_id = $1 ORDER BY 1, 2",
        operator.tenant,
    )
    return [tuple(row) for row in rows]


async def test_job_pauses_at_the_number_of_failures(
    server: Server, operator: Operator, report: Report
) -> None:
    await create(operator, {"count": 3})
    await report((1, "FAILED"), (2, "SUCCEEDED"), (3, "REJECTED"))
    assert await status(operator) == "IN_PROGRESS"
    before = await operator.get("j")

    await report((4, "FAILED", "E1"))

    job = await operator.get("j")
    assert job.status == pb.Job.PAUSED
    assert job.pause.reason == "3 executions failed (pause at 3)"
    assert job.pause.cause == pb.Pause.FAILURE_CRITERION
    assert not job.pause.HasField("paused_by")
    assert job.trip == pb.Trip(
        tripped_at=job.pause.paused_at, criterion=job.failure_criteria[0], failure_count=3
    )
    assert job.etag != before.etag
    assert job.updated_at == job.pause.paused_at
    with expect_failure(FAILED_PRECONDITION, "JOB_PAUSED"):
        await server.device(operator.tenant, "d00005").start("j")


async def test_devices_in_progress_continue_after_a_trip(
    server: Server, operator: Operator, report: Report
) -> None:
    await create(operator, {"count": 1})
    await report((1, None), (2, None))

    await report((1, "FAILED"))

    await server.device(operator.tenant, "d00002").update("j", "SUCCEEDED")
    assert (await operator.get("j")).execution_counts.succeeded == 1
    assert await status(operator) == "PAUSED"


async def test_percentage_of_finished_waits_for_min_finished(
    operator: Operator, report: Report
) -> None:
    await create(operator, {"percent": 20, "min_finished": 5})
    await report((1, "FAILED"), (2, "SUCCEEDED"), (3, "SUCCEEDED"), (4, "SUCCEEDED"))
    assert await status(operator) == "IN_PROGRESS"

    await report((5, "SUCCEEDED"))

    job = await operator.get("j")
    assert job.pause.reason == ("1 of 5 finished executions failed (pause at 20%)")


async def test_percentage_just_below_the_limit_does_not_trip(
    operator: Operator, report: Report
) -> None:
    """1 of 11 is 9.09 percent: no rounding."""
    await create(operator, {"percent": 10, "min_finished": 10})

    await report((1, "FAILED"), *((n, "SUCCEEDED") for n in range(2, 12)))

    assert await status(operator) == "IN_PROGRESS"


async def test_percentage_of_targeted_executions(operator: Operator, report: Report) -> None:
    await create(operator, {"percent": 10, "basis": "TARGETED"})
    await report((1, "FAILED"), (2, "FAILED"), (3, "FAILED"))
    assert await status(operator) == "IN_PROGRESS"

    await report((4, "FAILED"))

    job = await operator.get("j")
    assert (job.trip.failure_count, job.trip.basis_count) == (4, 40)
    assert job.pause.reason == ("4 of 40 targeted executions failed (pause at 10%)")


async def test_all_executions_are_released_without_a_rollout(
    operator: Operator, report: Report
) -> None:
    await create(operator, {"percent": 5, "basis": "RELEASED"})
    await report((1, "FAILED"))
    assert await status(operator) == "IN_PROGRESS"

    await report((2, "FAILED"))

    assert await status(operator) == "PAUSED"


async def devices_in_order(database: Database, operator: Operator) -> list[int]:
    """The numbers of the devices of job "j" in the order of their ranks."""
    rows = await database.owner.fetch(
        "SELECT device_id FROM jobs.job_executions WHERE tenant_id = $1 ORDER BY rank",
        operator.tenant,
    )
    return [int(row["device_id"][1:]) for row in rows]


async def test_scope_stage_counts_each_stage_alone(
    database: Database, operator: Operator, report: Report
) -> None:
    stages = [pb.Stage(device_count=4), pb.Stage(remainder=True)]
    await create(
        operator,
        {"count": 3, "scope": "STAGE"},
        {"percent": 50, "basis": "TARGETED", "scope": "STAGE", "action": "CANCEL"},
        rollout=pb.Rollout(stages=stages),
    )
    await operator.advance("j")
    first, second, *rest = await devices_in_order(database, operator)

    await report((first, "FAILED"), (rest[2], "FAILED"), (rest[3], "FAILED"))
    assert await status(operator) == "IN_PROGRESS"
    assert await criterion_counts(database, operator) == [
        *((0, 0, 1, 0), (0, 1, 2, 0)),
        *((1, 0, 1, 0), (1, 1, 2, 0)),
    ]
    await report((second, "FAILED"))

    job = await operator.get("j")
    assert job.cancel_reason == ("2 of 4 targeted executions failed in stage 0 (cancel at 50%)")
    assert (job.trip.stage, job.trip.HasField("stage")) == (0, True)


@pytest.mark.single_node("a call inside a transaction is not delegated on Citus")
@pytest.mark.wrong_counts("each stage has a failure that no device had")
async def test_report_reads_the_counts_of_its_own_stage(
    database: Database, operator: Operator, report: Report
) -> None:
    """The rows that it reads depend on the number of criteria, but not of stages."""
    del report
    rows = {}
    for stages in (2, 20):
        await operator.create(
            job_id=f"j{stages}",
            target_all=True,
            failure_criteria=[CRITERION(count=50, scope=CRITERION.STAGE), CRITERION(count=50)],
            rollout=pb.Rollout(
                stages=[*[pb.Stage(device_count=2)] * (stages - 1), pb.Stage(remainder=True)]
            ),
        )
        await database.owner.execute(
            "INSERT INTO jobs.job_criterion_counts (tenant_id, job_id, criterion, stage, failures)"
            " SELECT tenant_id, job_id, 0, stage, 1 FROM jobs.job_stages"
            " WHERE tenant_id = $1 AND job_id = $2",
            operator.tenant,
            f"j{stages}",
        )
        device = await database.owner.fetchval(
            "SELECT device_id FROM jobs.job_executions"
            " WHERE tenant_id = $1 AND job_id = $2 AND rank = 1",
            operator.tenant,
            f"j{stages}",
        )
        update = ExecutionUpdate(f"j{stages}", device, "FAILED")
        async with request_session(database) as (connection, store):
            call = store.update_executions(operator.tenant, [update], wait_ms=60_000)
            rows[stages] = await rows_read(connection, call)

    # A row of each of the 18 other stages would be read otherwise. Dead rows, also of other tests,
    # can be read as well.
    assert rows[20] < rows[2] + 18


async def test_database_refuses_the_scope_stage_without_a_rollout(
    database: Database, operator: Operator, report: Report
) -> None:
    """The service checks it before."""
    del report
    criteria: list[dict[str, Any]] = [
        {
            "statuses": [],
            "failure_codes": [],
            "count": 1,
            "basis": "FINISHED",
            "min_finished": 0,
            "scope": scope,
            "action": "PAUSE",
        }
        for scope in ("JOB", "STAGE")
    ]
    async with request_session(database) as (_, store):
        with pytest.raises(InvalidField) as error:
            await store.create_job(
                operator.tenant,
                job_id="j",
                request=json.dumps(
                    {"document_type": "x", "target_all": True, "failure_criteria": criteria}
                ),
                document_params="{}",
                created_by=None,
                max_targets=100,
                max_active_jobs=None,
                default_expires_in_hours=24,
            )
    assert "failure_criteria[1].scope needs a rollout" in str(error.value)


async def test_percentage_of_released_executions_falls_while_a_rate_runs(
    database: Database, operator: Operator, report: Report
) -> None:
    await create(
        operator,
        {"percent": 50, "basis": "RELEASED"},
        rollout=pb.Rollout(stages=[pb.Stage(remainder=True, releases_per_minute=1)]),
    )
    first, second, third, *_ = await devices_in_order(database, operator)

    await database.pass_time(180)
    await report((first, "FAILED"))  # 1 of 3
    assert await status(operator) == "IN_PROGRESS"
    await database.pass_time(120)
    await report((second, "FAILED"))  # 2 of 5
    assert await status(operator) == "IN_PROGRESS"
    await report((third, "FAILED"))

    assert (await operator.get("j")).pause.reason == (
        "3 of 5 released executions failed (pause at 50%)"
    )


async def test_resume_and_retry_change_the_counts_of_each_stage(
    database: Database, operator: Operator, report: Report
) -> None:
    stages = [pb.Stage(device_count=2), pb.Stage(device_count=38), pb.Stage(remainder=True)]
    await create(
        operator, {"count": 2, "scope": "STAGE"}, {"count": 9}, rollout=pb.Rollout(stages=stages)
    )
    await operator.advance("j")
    first, second, third, fourth, *_ = await devices_in_order(database, operator)
    await report((first, "FAILED"), (second, "SUCCEEDED"), (third, "FAILED"), (fourth, "FAILED"))

    await operator.resume("j")

    assert await criterion_counts(database, operator) == [
        *((0, 0, 0, 2), (0, 1, 0, 2), (0, 2, 0, 0)),
        (1, -1, 0, 4),
    ]
    await operator.retry("j", "FAILED", device_ids=[f"d{third:05}"])
    assert await criterion_counts(database, operator) == [
        *((0, 0, 0, 2), (0, 1, 0, 1), (0, 2, 0, 0)),
        (1, -1, 0, 3),
    ]
    failures = "SELECT failures FROM jobs.job_stages WHERE tenant_id = $1 ORDER BY stage"
    rows = await database.owner.fetch(failures, operator.tenant)
    assert [row["failures"] for row in rows] == [1, 1, 0]


@pytest.mark.parametrize(
    ("criterion", "counted"),
    [
        ({}, 6),
        ({"statuses": ["FAILED"]}, 3),
        ({"statuses": ["REJECTED", "TIMED_OUT"]}, 3),
        ({"failure_codes": ["E1"]}, 2),
        ({"failure_codes": [""]}, 3),
        ({"statuses": ["FAILED"], "failure_codes": ["E1", "E2"]}, 2),
    ],
)
async def test_criterion_counts_failures_with_its_statuses_and_codes(
    database: Database,
    operator: Operator,
    report: Report,
    criterion: dict[str, Any],
    counted: int,
) -> None:
    await create(operator, criterion | {"count": 100}, in_progress_timeout_minutes=1)
    await report((6, None))
    await database.make_overdue(operator.tenant, "j")
    async with Sweeper(database.owner_dsn) as sweeper:
        await sweeper.run_once()

    await report((1, "FAILED"), (2, "FAILED", "E1"), (3, "FAILED", "E2"))
    await report((4, "REJECTED"), (5, "REJECTED", "E1"))

    assert await criterion_counts(database, operator) == [(0, -1, counted, 0)]


async def test_timeouts_trip(database: Database, operator: Operator, report: Report) -> None:
    await create(operator, {"count": 2}, in_progress_timeout_minutes=1)
    await report((1, None), (2, None))
    await database.make_overdue(operator.tenant, "j")

    async with Sweeper(database.owner_dsn) as sweeper:
        await sweeper.run_once()

    assert await status(operator) == "PAUSED"


async def test_what_operators_and_the_expiry_end_does_not_count(
    database: Database, operator: Operator, report: Report
) -> None:
    await create(operator, {"count": 1})
    await report((1, None), (2, None))
    await operator.cancel_execution("j", "d00001", force=True)
    await operator.cancel_execution("j", "d00003")

    await database.expire(operator.tenant, "j")
    async with Sweeper(database.owner_dsn) as sweeper:
        await sweeper.run_once()

    assert await criterion_counts(database, operator) == []
    assert await status(operator) == "IN_PROGRESS"


async def test_cancel_rejects_what_has_not_started(operator: Operator, report: Report) -> None:
    await create(operator, {"count": 1, "action": "CANCEL"})
    await report((1, None), (2, None))

    await report((1, "FAILED"))

    job = await operator.get("j")
    reason = "1 execution failed (cancel at 1)"
    assert (job.status, job.cancel_reason) == (pb.Job.CANCELED, reason)
    assert job.trip.tripped_at == job.updated_at
    assert job.execution_counts == pb.ExecutionCounts(failed=1, in_progress=1, rejected=38)
    assert job.executions[2].status_details["reason"] == reason


async def test_forced_cancel_also_ends_what_is_in_progress(
    operator: Operator, report: Report
) -> None:
    await create(operator, {"count": 1, "action": "FORCE_CANCEL"})
    await report((1, None), (2, None))

    await report((1, "FAILED"))

    job = await operator.get("j")
    assert job.status == pb.Job.CANCELED
    assert job.execution_counts == pb.ExecutionCounts(failed=1, rejected=39)


async def test_first_criterion_that_trips_decides(operator: Operator, report: Report) -> None:
    await create(
        operator,
        {"count": 3, "action": "CANCEL"},
        {"count": 2},
        {"count": 2, "action": "FORCE_CANCEL"},
    )

    await report((1, "FAILED"), (2, "FAILED"))

    job = await operator.get("j")
    assert job.status == pb.Job.PAUSED
    assert job.pause.reason == "2 executions failed (pause at 2)"


async def test_start_in_the_batch_of_the_last_failure_is_rejected(
    operator: Operator, report: Report
) -> None:
    await create(operator, {"count": 1})

    outcomes = await report((1, None), (2, "FAILED"), (3, None), (4, "SUCCEEDED"))

    assert outcomes == ["JOB_PAUSED", "APPLIED", "JOB_PAUSED", "APPLIED"]


async def test_report_that_finishes_the_job_completes_it(
    operator: Operator, report: Report
) -> None:
    await create(operator, {"count": 1})

    await report(*((n, "FAILED") for n in range(1, 41)))

    assert await status(operator) == "COMPLETED"


async def test_retry_takes_back_the_failure(
    database: Database, operator: Operator, report: Report
) -> None:
    await create(operator, {"count": 2}, {"count": 9, "failure_codes": ["E2"]})
    await report((1, "FAILED", "E1"))

    await operator.retry("j", "FAILED")

    assert await criterion_counts(database, operator) == [(0, -1, 0, 0)]
    await report((1, "FAILED", "E2"))
    assert await status(operator) == "IN_PROGRESS"
    assert await criterion_counts(database, operator) == [(0, -1, 1, 0), (1, -1, 1, 0)]
    await report((2, "FAILED"))
    assert await status(operator) == "PAUSED"


async def test_retry_of_other_failures_and_successes_after_it_trip_nothing(
    operator: Operator, report: Report
) -> None:
    """One of five is 20 percent; when three others are retried, it is one of two."""
    await create(operator, {"percent": 50, "failure_codes": ["E1"], "min_finished": 2})
    await report(*((n, "FAILED") for n in range(1, 4)), (4, "FAILED", "E1"), (5, "SUCCEEDED"))
    assert await status(operator) == "IN_PROGRESS"

    await operator.retry("j", "FAILED", failure_codes=[""])
    assert await status(operator) == "IN_PROGRESS"
    assert (await operator.get("j")).execution_counts.queued == 38
    await report((6, None))
    await operator.cancel_execution("j", "d00007")
    await operator.update("j", "in_progress_timeout_minutes", in_progress_timeout_minutes=5)
    assert await status(operator) == "IN_PROGRESS"

    await report((6, "FAILED", "E1"))

    assert await status(operator) == "PAUSED"


async def test_successes_after_a_retry_trip_only_if_they_reach_min_finished(
    operator: Operator, report: Report
) -> None:
    await create(operator, {"percent": 30, "failure_codes": ["E1"], "min_finished": 2})
    await report(*((n, "FAILED") for n in range(1, 4)), (4, "FAILED", "E1"))
    await operator.retry("j", "FAILED", failure_codes=[""])
    await report((5, "SUCCEEDED"))
    assert await status(operator) == "PAUSED"  # one of two
    await operator.resume("j")

    await report(*((n, "FAILED") for n in (1, 2, 3)), (6, "FAILED", "E1"), (7, "SUCCEEDED"))
    assert await status(operator) == "IN_PROGRESS"  # one of five
    await operator.retry("j", "FAILED", failure_codes=[""])
    await report((8, "SUCCEEDED"))  # one of three

    assert await status(operator) == "IN_PROGRESS"


async def test_resumed_job_counts_from_the_resume(
    database: Database, operator: Operator, report: Report
) -> None:
    await create(operator, {"count": 2}, {"percent": 50, "min_finished": 2})
    await report((1, "FAILED"), (2, "FAILED"), (3, "SUCCEEDED"))
    assert await status(operator) == "PAUSED"

    await operator.resume("j")

    assert await criterion_counts(database, operator) == [(0, -1, 0, 3), (1, -1, 0, 3)]
    await report((4, "SUCCEEDED"), (5, "SUCCEEDED"))
    await report((6, "FAILED"))
    assert await status(operator) == "IN_PROGRESS"  # one failure, 33 percent
    await report((7, "FAILED"))
    assert await status(operator) == "PAUSED"


async def test_criterion_counts_and_trips_after_the_clock_was_set_back(
    database: Database, operator: Operator, report: Report
) -> None:
    await create(operator, {"count": 2})
    await report((1, "FAILED"), (2, "FAILED"))
    await database.pass_time(-300)
    try:
        await operator.resume("j")
        await report((3, "FAILED"))
        assert await status(operator) == "IN_PROGRESS"
        assert await criterion_counts(database, operator) == [(0, -1, 1, 2)]
        await report((4, "FAILED"))
        assert await status(operator) == "PAUSED"

        await operator.resume("j")
        await report((5, "FAILED"))
        await operator.pause("j")
        await operator.resume("j")
        assert await criterion_counts(database, operator) == [(0, -1, 0, 5)]
        await operator.retry("j", pb.JobExecution.FAILED)

        # A recount must not take it for one before the restart.
        await report((6, "SUCCEEDED"))
        assert await criterion_counts(database, operator) == [(0, -1, 0, 0)]
    finally:
        await database.set_time_offset(0)


@pytest.mark.wrong_counts("failures that the restart counted as earlier are later than it")
async def test_failures_from_before_the_clock_was_set_back_can_be_retried(
    database: Database, operator: Operator, report: Report
) -> None:
    await create(operator, {"count": 3})
    await report((1, "FAILED"), (2, "FAILED"))
    await database.pass_time(-300)
    try:
        await operator.pause("j")
        await operator.resume("j")

        await operator.retry("j", pb.JobExecution.FAILED)

        assert await criterion_counts(database, operator) == [(0, -1, 0, 2)]
    finally:
        await database.set_time_offset(0)


async def test_retry_after_a_resume_takes_back_only_failures_since(
    database: Database, operator: Operator, report: Report
) -> None:
    await create(operator, {"count": 2})
    await report((1, "FAILED"), (2, "FAILED"), (3, "SUCCEEDED"))
    await operator.resume("j")
    await report((4, "FAILED"))
    assert await criterion_counts(database, operator) == [(0, -1, 1, 3)]

    await operator.retry("j", "FAILED", device_ids=["d00001"])
    assert await criterion_counts(database, operator) == [(0, -1, 1, 2)]

    await operator.retry("j", "FAILED")
    assert await criterion_counts(database, operator) == [(0, -1, 0, 1)]


async def test_retried_devices_finish_again_after_a_resume(
    operator: Operator, report: Report
) -> None:
    """Retried before or after the resume, they are part of the basis when they finish again."""
    await create(operator, {"percent": 50, "min_finished": 3})
    await report((1, "FAILED"), (2, "FAILED"), (3, "FAILED"))
    await operator.retry("j", "FAILED", device_ids=["d00001"])
    await operator.resume("j")
    await operator.retry("j", "FAILED")

    await report((1, "SUCCEEDED"), (2, "SUCCEEDED"))
    await report((3, "FAILED"))

    assert await status(operator) == "IN_PROGRESS"  # 1 of 3
    await report((4, "FAILED"))
    job = await operator.get("j")
    assert "2 of 4 finished executions failed" in job.pause.reason


async def test_pause_by_an_operator_does_not_trip_until_the_resume(
    operator: Operator, report: Report
) -> None:
    await create(operator, {"count": 1})
    await operator.pause("j", reason="lunch")

    await report((1, "FAILED"))

    assert (await operator.get("j")).pause.reason == "lunch"
    await operator.resume("j")
    assert await status(operator) == "IN_PROGRESS"


async def test_codes_are_counted_exactly_when_devices_invent_ten_thousand(
    database: Database, operator: Operator
) -> None:
    await database.add_devices(operator.tenant, 10_000)
    await create(
        operator,
        {"count": 3, "failure_codes": ["invented-09000", "invented-09500", "invented-09999"]},
        {"count": 10_000},
    )
    async with request_session(database) as (_, store):
        for first in range(1, 10_000, 500):
            batch = [
                ExecutionUpdate("j", f"d{n:05}", "FAILED", failure_code=f"invented-{n:05}")
                for n in range(first, min(first + 500, 9_999))
            ]
            await store.update_executions(operator.tenant, batch, wait_ms=60_000)
        assert await status(operator) == "IN_PROGRESS"
        assert await criterion_counts(database, operator) == [(0, -1, 2, 0), (1, -1, 9_998, 0)]

        await operator.retry("j", "FAILED", failure_codes=["invented-09500"])
        assert await criterion_counts(database, operator) == [(0, -1, 1, 0), (1, -1, 9_997, 0)]

        for number in (9_500, 9_999):
            update = ExecutionUpdate(
                "j", f"d{number:05}", "FAILED", failure_code=f"invented-{number:05}"
            )
            await store.update_executions(operator.tenant, [update], wait_ms=60_000)

    assert (
        await operator.get("j", executions_limit=0)
    ).pause.reason == "3 executions failed (pause at 3)"


async def test_report_before_the_resume_is_old_and_one_after_it_counts(
    database: Database, server: Server, operator: Operator, report: Report
) -> None:
    """The last one waits for the job lock while the resume holds it."""
    await create(operator, {"count": 2})
    await report((1, None), (2, None), (3, "FAILED"), (4, "FAILED"))
    assert await status(operator) == "PAUSED"

    async with rows_locked(
        database, "jobs.job_failure_criteria", tenant_id=operator.tenant, job_id="j"
    ):
        async with job_lock_held(database, operator.tenant, "j"):
            early = asyncio.create_task(report((1, "FAILED")))
            await database.wait_for_blocked_sessions(1)
            resume = asyncio.create_task(operator.resume("j"))
            await database.wait_for_blocked_sessions(2)
        await early
        await database.wait_for_blocked_sessions(1)
        late = asyncio.create_task(report((2, "FAILED")))
        await database.wait_for_blocked_sessions(2)
    await asyncio.gather(resume, late)

    assert await criterion_counts(database, operator) == [(0, -1, 1, 3)]
    assert await status(operator) == "IN_PROGRESS"


async def test_start_before_the_trip_runs_and_one_after_it_is_rejected(
    database: Database, operator: Operator, report: Report
) -> None:
    """The last one waits for the job lock while the report that trips the criterion holds it."""
    await create(operator, {"count": 1})

    async with rows_locked(
        database,
        "jobs.job_executions",
        tenant_id=operator.tenant,
        job_id="j",
        device_id="d00002",
    ):
        async with job_lock_held(database, operator.tenant, "j"):
            early = asyncio.create_task(report((1, None)))
            await database.wait_for_blocked_sessions(1)
            trip = asyncio.create_task(report((2, "FAILED")))
            await database.wait_for_blocked_sessions(2)
        assert await early == ["APPLIED"]
        await database.wait_for_blocked_sessions(1)
        late = asyncio.create_task(report((3, None)))
        await database.wait_for_blocked_sessions(2)

    assert [await trip, await late] == [["APPLIED"], ["JOB_PAUSED"]]
    counts = (await operator.get("j")).execution_counts
    assert counts == pb.ExecutionCounts(in_progress=1, failed=1, queued=38)


async def test_retry_before_the_report_keeps_the_job_going(
    database: Database, operator: Operator, report: Report
) -> None:
    """The retry takes back the first failure before the second one counts."""
    await create(operator, {"count": 2})
    await report((1, "FAILED"))

    async with job_lock_held(database, operator.tenant, "j"):
        retry = asyncio.create_task(operator.retry("j", "FAILED"))
        await database.wait_for_blocked_sessions(1)
        second = asyncio.create_task(report((2, "FAILED")))
        await database.wait_for_blocked_sessions(2)
    await asyncio.gather(retry, second)

    assert await status(operator) == "IN_PROGRESS"
    assert await criterion_counts(database, operator) == [(0, -1, 1, 0)]


async def test_resume_writes_rows_per_criterion_not_per_failure(
    database: Database, operator: Operator, report: Report
) -> None:
    await create(operator, {"count": 1}, {"count": 1, "scope": "JOB", "failure_codes": ["E1"]})
    await report(*((n, "FAILED", f"E{n}") for n in range(1, 40)))

    await operator.resume("j")

    assert await criterion_counts(database, operator) == [(0, -1, 0, 39), (1, -1, 0, 39)]
