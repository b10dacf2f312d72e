"""Failure criteria: what they count, when they trip, and what happens then."""

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from typing import Any

import asyncpg
import pytest
from fleet.jobs.v1 import jobs_pb2 as pb

from jobs_grpc.db.store import ExecutionUpdate
from tests.support.database import Database, request_session, rows_locked, send_batch
from tests.support.failures import expect_error
from tests.support.rows_read import rows_read
from tests.support.staged_jobs import rollout
from tests.support.world import World

_SINGLE_NODE = pytest.mark.single_node("sees only the locks of one node")

REMAINDER: dict[str, Any] = {"remainder": True}

Update = tuple[int, str | None] | tuple[int, str, str]


class CriteriaJob(World):
    """The job "j" for the devices d00001 to d00040."""

    async def create_with(self, *criteria: dict[str, Any], **fields: Any) -> None:
        messages = [pb.FailureCriterion(**criterion) for criterion in criteria]
        request = {"job_id": "j", "target_all": True, "failure_criteria": messages} | fields
        await self.operator.create(**request)

    async def report(self, *updates: Update) -> list[str]:
        """Send (device, status, code) as one batch, and return the outcomes. No status: a start."""
        batch = [
            ExecutionUpdate("j", f"d{number:05}", status, failure_code=code[0] if code else None)
            for number, status, *code in updates
        ]
        rows = await send_batch(self.database, self.tenant, *batch)
        return [row["outcome"] for row in rows]

    async def get(self) -> pb.Job:
        return await self.operator.get("j")

    async def status(self) -> str:
        return await self.operator.status()

    async def retry(self, *devices: int, codes: Sequence[str] = ()) -> None:
        names = [f"d{number:05}" for number in devices]
        await self.operator.retry("j", "FAILED", device_ids=names, failure_codes=codes)

    async def counts(self) -> list[tuple[int, ...]]:
        """The criterion, stage, failures and finished_before of each row of counts."""
        rows = await self.rows(
            "SELECT criterion, stage, failures, finished_before FROM jobs.job_criterion_counts"
            " WHERE tenant_id = $1 ORDER BY 1, 2"
        )
        return [tuple(row) for row in rows]

    async def in_order(self, job_id: str = "j") -> list[int]:
        rows = await self.rows(
            "SELECT device_id FROM jobs.job_executions WHERE tenant_id = $1 AND job_id = $2"
            " ORDER BY rank",
            job_id,
        )
        return [int(row["device_id"][1:]) for row in rows]


@pytest.fixture
async def job(world: World) -> CriteriaJob:
    await world.add_devices(40)
    return CriteriaJob(world.database, world.server, world.operator)


async def test_job_pauses_at_the_number_of_failures(job: CriteriaJob) -> None:
    await job.create_with({"count": 3})
    await job.report((1, "FAILED"), (2, "SUCCEEDED"), (3, "REJECTED"), (6, None))
    before = await job.get()
    assert before.status == pb.Job.IN_PROGRESS

    await job.report((4, "FAILED", "E1"))

    paused = await job.get()
    pause = paused.pause
    assert paused.status == pb.Job.PAUSED
    assert pause.reason == "3 executions failed (pause at 3)"
    assert (pause.cause, pause.HasField("paused_by")) == (pb.Pause.FAILURE_CRITERION, False)
    assert paused.trip == pb.Trip(
        tripped_at=pause.paused_at, criterion=paused.failure_criteria[0], failure_count=3
    )
    assert paused.etag != before.etag
    assert paused.updated_at == pause.paused_at
    await expect_error("JOB_PAUSED", job.device("d00005").start("j"))
    # Devices that have started continue.
    await job.device("d00006").update("j", "SUCCEEDED")
    assert (await job.get()).execution_counts.succeeded == 2
    assert await job.status() == "PAUSED"


ELEVEN = [(1, "FAILED"), *((n, "SUCCEEDED") for n in range(2, 12))]


@pytest.mark.parametrize(
    ("criterion", "before", "last", "reason"),
    [
        (
            {"percent": 20, "min_finished": 5},
            [(1, "FAILED"), (2, "SUCCEEDED"), (3, "SUCCEEDED"), (4, "SUCCEEDED")],
            (5, "SUCCEEDED"),
            "1 of 5 finished executions failed (pause at 20%)",
        ),
        (  # 1 of 11 is 9.09 percent: no rounding.
            {"percent": 10, "min_finished": 10},
            ELEVEN,
            (12, "FAILED"),
            "2 of 12 finished executions failed (pause at 10%)",
        ),
        (
            {"percent": 10, "basis": "TARGETED"},
            [(1, "FAILED"), (2, "FAILED"), (3, "FAILED")],
            (4, "FAILED"),
            "4 of 40 targeted executions failed (pause at 10%)",
        ),
        (  # Without a rollout, all are released.
            {"percent": 5, "basis": "RELEASED"},
            [(1, "FAILED")],
            (2, "FAILED"),
            "2 of 40 released executions failed (pause at 5%)",
        ),
    ],
)
async def test_job_pauses_at_the_percentage_of_its_basis(
    job: CriteriaJob, criterion: dict[str, Any], before: list[Update], last: Update, reason: str
) -> None:
    await job.create_with(criterion)
    await job.report(*before)
    assert await job.status() == "IN_PROGRESS"

    await job.report(last)

    assert (await job.get()).pause.reason == reason


async def test_scope_stage_counts_each_stage_alone(job: CriteriaJob) -> None:
    await job.create_with(
        {"count": 3, "scope": "STAGE"},
        {"percent": 50, "basis": "TARGETED", "scope": "STAGE", "action": "CANCEL"},
        rollout=rollout({"device_count": 4}, REMAINDER),
    )
    await job.operator.advance("j")
    first, second, *rest = await job.in_order()

    await job.report((first, "FAILED"), (rest[2], "FAILED"), (rest[3], "FAILED"))
    assert await job.status() == "IN_PROGRESS"
    assert await job.counts() == [(0, 0, 1, 0), (0, 1, 2, 0), (1, 0, 1, 0), (1, 1, 2, 0)]
    await job.report((second, "FAILED"))

    canceled = await job.get()
    reason = "2 of 4 targeted executions failed in stage 0 (cancel at 50%)"
    assert (canceled.cancel_reason, canceled.trip.basis_count) == (reason, 4)
    assert (canceled.trip.stage, canceled.trip.HasField("stage")) == (0, True)


@pytest.mark.single_node("a call inside a transaction is not delegated on Citus")
@pytest.mark.wrong_counts("each stage has a failure that no device had")
async def test_report_reads_the_counts_of_its_own_stage(job: CriteriaJob) -> None:
    """The rows that it reads depend on the number of criteria, but not of stages."""
    rows = {}
    for stages in (2, 20):
        job_id = f"j{stages}"
        await job.create_with(
            *({"count": 50, "scope": "STAGE"}, {"count": 50}),
            job_id=job_id,
            rollout=rollout(*[{"device_count": 2}] * (stages - 1), REMAINDER),
        )
        await job.execute(
            "INSERT INTO jobs.job_criterion_counts (tenant_id, job_id, criterion, stage, failures)"
            " SELECT tenant_id, job_id, 0, stage, 1 FROM jobs.job_stages"
            " WHERE tenant_id = $1 AND job_id = $2",
            job_id,
        )
        device = (await job.in_order(job_id))[0]
        update = ExecutionUpdate(job_id, f"d{device:05}", "FAILED")
        async with request_session(job.database) as (connection, store):
            call = store.update_executions(job.tenant, [update], wait_ms=60_000)
            rows[stages] = await rows_read(connection, call)

    # A row of each of the 18 other stages would be read otherwise. Dead rows, also of other tests,
    # can be read as well.
    assert rows[20] < rows[2] + 18


async def test_database_refuses_the_scope_stage_without_a_rollout(job: CriteriaJob) -> None:
    """The service checks it before."""
    criterion = {"statuses": [], "failure_codes": [], "count": 1, "basis": "FINISHED"}
    criterion |= {"min_finished": 0, "scope": "STAGE", "action": "PAUSE"}
    request = {"document_type": "x", "target_all": True, "failure_criteria": [criterion]}
    with pytest.raises(asyncpg.PostgresError, match=r"failure_criteria\[0\].scope"):
        await job.rows(
            "SELECT jobs.create_job($1, 'j', $2, '{}', NULL, 100, NULL, 24)", json.dumps(request)
        )


async def test_resume_and_retry_change_the_counts_of_each_stage(job: CriteriaJob) -> None:
    stages = rollout({"device_count": 2}, {"device_count": 38}, REMAINDER)
    await job.create_with({"count": 2, "scope": "STAGE"}, {"count": 9}, rollout=stages)
    await job.operator.advance("j")
    first, second, third, fourth, *_ = await job.in_order()
    await job.report(
        (first, "FAILED"), (second, "SUCCEEDED"), (third, "FAILED"), (fourth, "FAILED")
    )

    await job.operator.resume("j")

    assert await job.counts() == [(0, 0, 0, 2), (0, 1, 0, 2), (0, 2, 0, 0), (1, -1, 0, 4)]
    await job.retry(third)
    assert await job.counts() == [(0, 0, 0, 2), (0, 1, 0, 1), (0, 2, 0, 0), (1, -1, 0, 3)]
    failures = "SELECT failures FROM jobs.job_stages WHERE tenant_id = $1 ORDER BY stage"
    assert [row["failures"] for row in await job.rows(failures)] == [1, 1, 0]


@pytest.mark.parametrize(
    ("action", "counts"),
    [("CANCEL", {"in_progress": 1, "rejected": 38}), ("FORCE_CANCEL", {"rejected": 39})],
)
async def test_cancel_rejects_what_has_not_started_and_with_force_what_is_in_progress(
    job: CriteriaJob, action: str, counts: dict[str, int]
) -> None:
    await job.create_with({"count": 1, "action": action})
    await job.report((1, None), (2, None))

    await job.report((1, "FAILED"))

    canceled = await job.get()
    reason = f"1 execution failed ({action.lower().replace('_', ' ')} at 1)"
    assert canceled.status == pb.Job.CANCELED
    assert (canceled.cancel_reason, canceled.trip.tripped_at) == (reason, canceled.updated_at)
    assert canceled.execution_counts == pb.ExecutionCounts(failed=1, **counts)
    assert canceled.executions[2].status_details == {"reason": reason}


async def test_batch_with_the_last_failure_rejects_its_starts(job: CriteriaJob) -> None:
    await job.create_with({"count": 1})

    outcomes = await job.report((1, None), (2, "FAILED"), (3, None), (4, "SUCCEEDED"))
    assert outcomes == ["JOB_PAUSED", "APPLIED", "JOB_PAUSED", "APPLIED"]
    await job.operator.resume("j")
    await job.report(*((n, "FAILED") for n in range(1, 41) if n not in (2, 4)))

    assert await job.status() == "COMPLETED"


@pytest.fixture
async def clock(database: Database) -> AsyncIterator[Database]:
    """The database, whose time is reset after the test."""
    yield database
    await database.set_time_offset(0)


async def test_criterion_counts_and_trips_after_the_clock_was_set_back(
    job: CriteriaJob, clock: Database
) -> None:
    await job.create_with({"count": 2})
    await job.report((1, "FAILED"), (2, "FAILED"))
    await clock.pass_time(-300)
    await job.operator.resume("j")
    await job.report((3, "FAILED"))
    assert await job.status() == "IN_PROGRESS"
    assert await job.counts() == [(0, -1, 1, 2)]
    await job.report((4, "FAILED"))
    assert await job.status() == "PAUSED"

    await job.operator.resume("j")
    await job.report((5, "FAILED"))
    await job.operator.pause("j")
    await job.operator.resume("j")
    assert await job.counts() == [(0, -1, 0, 5)]
    await job.retry()

    # A recount must not take it for one before the restart.
    await job.report((6, "SUCCEEDED"))
    assert await job.counts() == [(0, -1, 0, 0)]


@pytest.mark.wrong_counts("failures that the restart counted as earlier are later than it")
async def test_failures_from_before_the_clock_was_set_back_can_be_retried(
    job: CriteriaJob, clock: Database
) -> None:
    await job.create_with({"count": 3})
    await job.report((1, "FAILED"), (2, "FAILED"))
    await clock.pass_time(-300)
    await job.operator.pause("j")
    await job.operator.resume("j")

    await job.retry()

    assert await job.counts() == [(0, -1, 0, 2)]


async def test_codes_are_counted_exactly_when_devices_invent_hundreds(job: CriteriaJob) -> None:
    """Also those beyond the first hundred, which the failure summary counts together."""

    def failures(*numbers: int) -> list[Update]:
        return [(number, "FAILED", f"invented-{number:05}") for number in numbers]

    await job.add_devices(300)
    codes = ["invented-00250", "invented-00275", "invented-00299"]
    await job.create_with({"count": 3, "failure_codes": codes}, {"count": 300})
    await job.report(*failures(*range(1, 299)))
    assert await job.status() == "IN_PROGRESS"
    assert await job.counts() == [(0, -1, 2, 0), (1, -1, 298, 0)]

    await job.retry(codes=codes[1:2])
    assert await job.counts() == [(0, -1, 1, 0), (1, -1, 297, 0)]
    await job.report(*failures(275))
    await job.report(*failures(299))

    assert (await job.get()).pause.reason == "3 executions failed (pause at 3)"


@_SINGLE_NODE
async def test_report_before_the_resume_is_old_and_one_after_it_counts(job: CriteriaJob) -> None:
    """The last one waits for the job lock while the resume holds it."""
    database, tenant = job.database, job.tenant
    await job.create_with({"count": 2})
    await job.report((1, None), (2, None), (3, "FAILED"), (4, "FAILED"))
    assert await job.status() == "PAUSED"

    criteria = {"tenant_id": tenant, "job_id": "j"}
    async with rows_locked(database, "jobs.job_failure_criteria", **criteria) as holder:
        calls = job.report((1, "FAILED")), job.operator.resume("j")
        early, resume = await job.lock_in_order(*calls)
        await early
        # The resume has the job lock then, and no longer waits for it.
        await database.wait_for_session_behind(holder)
        late = await database.blocked(job.report((2, "FAILED")), 2)
    await asyncio.gather(resume, late)

    assert await job.counts() == [(0, -1, 1, 3)]
    assert await job.status() == "IN_PROGRESS"


@_SINGLE_NODE
async def test_start_before_the_trip_runs_and_one_after_it_is_rejected(job: CriteriaJob) -> None:
    """The last one waits for the job lock while the report that trips the criterion holds it."""
    database, tenant = job.database, job.tenant
    await job.create_with({"count": 1})

    execution = {"tenant_id": tenant, "job_id": "j", "device_id": "d00002"}
    async with rows_locked(database, "jobs.job_executions", **execution) as holder:
        calls = job.report((1, None)), job.report((2, "FAILED"))
        early, trip = await job.lock_in_order(*calls)
        assert await early == ["APPLIED"]
        # The trip has the job lock then, and no longer waits for it.
        await database.wait_for_session_behind(holder)
        late = await database.blocked(job.report((3, None)), 2)

    assert [await trip, await late] == [["APPLIED"], ["JOB_PAUSED"]]
    counts = pb.ExecutionCounts(in_progress=1, failed=1, queued=38)
    assert (await job.get()).execution_counts == counts


async def test_retry_before_the_report_keeps_the_job_going(job: CriteriaJob) -> None:
    """The retry takes back the first failure before the second one counts."""
    await job.create_with({"count": 2})
    await job.report((1, "FAILED"))

    calls = job.operator.retry("j", "FAILED"), job.report((2, "FAILED"))
    await asyncio.gather(*await job.lock_in_order(*calls))

    assert await job.status() == "IN_PROGRESS"
    assert await job.counts() == [(0, -1, 1, 0)]
