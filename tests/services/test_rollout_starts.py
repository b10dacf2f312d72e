"""Starts of jobs with a rollout: held executions, max_in_progress, and batches with reports."""

import pytest
from fleet.jobs.v1 import jobs_pb2 as pb
from grpc import StatusCode

from jobs_grpc.db.store import ExecutionUpdate
from tests.support.callers import Operator
from tests.support.database import Database, request_session
from tests.support.failures import expect_failure
from tests.support.server import Server
from tests.support.staged_jobs import StagedJob, create_staged_job

FAILED_PRECONDITION = StatusCode.FAILED_PRECONDITION
FINAL = ("SUCCEEDED", "FAILED", "REJECTED")


@pytest.fixture
async def devices(database: Database, operator: Operator) -> None:
    """Ten devices of the tenant."""
    await database.add_devices(operator.tenant, 10)


@pytest.fixture
async def staged(
    database: Database, server: Server, operator: Operator, devices: None
) -> StagedJob:
    """A job with a stage of four devices and one of six."""
    return await create_staged_job(
        database, server, operator, {"device_count": 4}, {"remainder": True}
    )


@pytest.fixture
async def limited(
    database: Database, server: Server, operator: Operator, devices: None
) -> StagedJob:
    """A job of which two executions may be IN_PROGRESS."""
    return await create_staged_job(
        database, server, operator, {"remainder": True}, max_in_progress=2
    )


async def apply(
    database: Database, tenant: str, *updates: ExecutionUpdate
) -> list[tuple[str, str | None]]:
    """Apply updates as one batch of another server; return their outcomes and jobs."""
    async with request_session(database) as (_, store):
        rows = await store.update_executions(tenant, updates, wait_ms=0)
    return [(row["outcome"], row["job_id"]) for row in rows]


def outcomes(results: list[tuple[str, str | None]]) -> list[str]:
    """The outcomes of a batch."""
    return [outcome for outcome, _ in results]


@pytest.mark.parametrize("status", ["IN_PROGRESS", *FINAL])
async def test_report_is_rejected_when_execution_is_held(staged: StagedJob, status: str) -> None:
    device = staged.device(1)

    with expect_failure(FAILED_PRECONDITION, "EXECUTION_HELD") as failure:
        await device.update("j", status, execution_number=7)

    assert failure.metadata == {"jobId": "j", "deviceId": device.name}
    await staged.check_counts()


async def test_start_is_rejected_when_execution_is_held(staged: StagedJob) -> None:
    with expect_failure(FAILED_PRECONDITION, "EXECUTION_HELD"):
        await staged.device(1).start("j")
    assert await staged.device(1).start_next() is None


async def test_start_next_skips_held_executions(
    database: Database, server: Server, operator: Operator, staged: StagedJob
) -> None:
    await operator.create(job_id="later", target_all=True)

    started = await staged.device(1).start_next()

    assert started is not None
    assert started.job_id == "later"


async def test_held_execution_is_held_in_a_paused_job(staged: StagedJob) -> None:
    await staged.operator.pause("j")

    with expect_failure(FAILED_PRECONDITION, "EXECUTION_HELD"):
        await staged.device(1).start("j")
    with expect_failure(FAILED_PRECONDITION, "JOB_PAUSED"):
        await staged.device(0).start("j")


async def test_held_execution_is_finished_when_its_job_is_canceled(staged: StagedJob) -> None:
    await staged.operator.cancel("j")

    with expect_failure(FAILED_PRECONDITION, "EXECUTION_FINISHED"):
        await staged.device(1).start("j")


async def test_executions_are_released_one_by_one_by_the_rate(
    database: Database, server: Server, operator: Operator, devices: None
) -> None:
    job = await create_staged_job(
        database, server, operator, {"remainder": True, "releases_per_minute": 2}
    )
    with expect_failure(FAILED_PRECONDITION, "EXECUTION_HELD"):
        await job.device(0, 0).start("j")

    await job.database.pass_time(60)

    await job.device(0, 0).start("j")
    assert await job.device(0, 1).start_next() is not None
    with expect_failure(FAILED_PRECONDITION, "EXECUTION_HELD"):
        await job.device(0, 2).start("j")


async def test_start_is_rejected_when_max_in_progress_are_in_progress(limited: StagedJob) -> None:
    first, second, third, *_ = limited.devices(0)
    await first.start("j")
    await second.update("j", "IN_PROGRESS")

    for start in (third.start("j"), third.update("j", "IN_PROGRESS")):
        with expect_failure(FAILED_PRECONDITION, "JOB_FULL") as failure:
            await start
        assert failure.metadata == {"jobId": "j"}

    assert (await first.start("j")).version == 2
    await third.update("j", "SUCCEEDED")
    assert (await limited.get()).execution_counts == pb.ExecutionCounts(
        queued=7, in_progress=2, succeeded=1
    )


async def test_start_next_continues_with_the_next_job_when_a_job_is_full(
    operator: Operator, limited: StagedJob
) -> None:
    await operator.create(job_id="later", target_all=True)
    first, second, third, fourth, *_ = limited.devices(0)
    for device in (first, second):
        started = await device.start_next()
        assert started is not None
        assert started.job_id == "j"

    started = await third.start_next()

    assert started is not None
    assert started.job_id == "later"
    listed = await fourth.pending()
    assert [execution.job_id for execution in listed.executions] == ["j", "later"]
    repeated = await first.start_next()
    assert repeated is not None
    assert repeated.job_id == "j"


async def test_device_that_finishes_makes_room_in_the_same_batch(
    database: Database, limited: StagedJob
) -> None:
    tenant = limited.operator.tenant
    first, second, third, fourth, *_ = (device.name for device in limited.devices(0))
    for name in (first, second):
        await limited.server.device(tenant, name).start("j")

    results = await apply(
        database,
        tenant,
        ExecutionUpdate("j", third, None),
        ExecutionUpdate(None, fourth, None, must_be_next=True),
        ExecutionUpdate("j", first, "SUCCEEDED"),
    )

    # Nothing is the fourth device's next execution, because the job was full before the batch.
    assert outcomes(results) == ["APPLIED", "NONE", "APPLIED"]
    await limited.check_counts()


async def test_starts_of_a_batch_take_places_in_order(
    database: Database, operator: Operator, limited: StagedJob
) -> None:
    names = [device.name for device in limited.devices(0)]
    await operator.create(job_id="later", target_all=True)

    results = await apply(
        database,
        limited.operator.tenant,
        ExecutionUpdate("later", names[0], None),
        ExecutionUpdate("j", names[1], None, execution_number=9),
        ExecutionUpdate("j", names[2], None),
        ExecutionUpdate(None, names[3], None, must_be_next=True),
        ExecutionUpdate("j", names[4], "IN_PROGRESS"),
        ExecutionUpdate(None, names[5], None, must_be_next=True),
        ExecutionUpdate("j", names[6], "FAILED"),
    )

    assert outcomes(results) == [
        *("APPLIED", "EXECUTION_CHANGED", "APPLIED", "APPLIED", "JOB_FULL", "AGAIN", "APPLIED")
    ]
    await limited.check_counts()


async def test_batch_returns_executions_in_order_when_starts_are_applied_later(
    database: Database, staged: StagedJob
) -> None:
    names = [device.name for device in staged.devices(0)]

    async with request_session(database) as (_, store):
        rows = await store.update_executions(
            staged.operator.tenant,
            [
                ExecutionUpdate("j", names[0], None, status_details='{"n": 0}'),
                ExecutionUpdate("j", names[1], "SUCCEEDED"),
                ExecutionUpdate("j", names[2], "IN_PROGRESS", extend_timeout_minutes=5),
                ExecutionUpdate("missing", names[3], None),
            ],
            wait_ms=0,
        )

    assert [
        (row["outcome"], row["previous_status"], row["device_id"], row["status"]) for row in rows
    ] == [
        ("APPLIED", "QUEUED", names[0], "IN_PROGRESS"),
        ("APPLIED", "QUEUED", names[1], "SUCCEEDED"),
        ("APPLIED", "QUEUED", names[2], "IN_PROGRESS"),
        ("EXECUTION_NOT_FOUND", None, None, None),
    ]
    assert rows[0]["status_details"] == '{"n": 0}'
    assert rows[2]["times_out_at"] is not None
    await staged.check_counts()


async def test_last_report_of_a_stage_releases_a_start_of_the_same_batch(
    database: Database, staged: StagedJob
) -> None:
    *others, last = (device.name for device in staged.devices(0))
    for name in others:
        await staged.server.device(staged.operator.tenant, name).update("j", "SUCCEEDED")
    released, reporting = (device.name for device in staged.devices(1)[:2])

    results = await apply(
        database,
        staged.operator.tenant,
        ExecutionUpdate("j", released, None),
        ExecutionUpdate("j", last, "SUCCEEDED"),
        ExecutionUpdate("j", reporting, "FAILED"),
    )

    assert outcomes(results) == ["APPLIED", "APPLIED", "EXECUTION_HELD"]
    await staged.check_counts()


async def test_nothing_starts_in_a_batch_whose_report_trips_a_criterion(
    database: Database, server: Server, operator: Operator, devices: None
) -> None:
    job = await create_staged_job(
        database,
        server,
        operator,
        {"remainder": True},
        failure_criteria=[pb.FailureCriterion(count=1)],
    )
    await operator.create(job_id="later", target_all=True)
    names = [device.name for device in job.devices(0)]

    results = await apply(
        database,
        operator.tenant,
        ExecutionUpdate("j", names[0], None),
        ExecutionUpdate(None, names[1], None, must_be_next=True),
        ExecutionUpdate("later", names[2], None),
        ExecutionUpdate("j", names[3], "SUCCEEDED"),
        ExecutionUpdate("j", names[4], "FAILED"),
    )

    assert outcomes(results) == ["JOB_PAUSED", "AGAIN", "APPLIED", "APPLIED", "APPLIED"]
    assert (await job.get()).status == pb.Job.PAUSED
    await job.check_counts()


@pytest.mark.single_node("a call inside a transaction is not delegated on Citus")
async def test_device_sees_its_execution_queued_when_it_was_released_after_its_call_began(
    database: Database, server: Server, operator: Operator, devices: None
) -> None:
    """A wait for the job lock can lie between the start of the transaction and the decision."""
    job = await create_staged_job(
        database, server, operator, {"remainder": True, "releases_per_minute": 60}
    )
    update = ExecutionUpdate("j", job.names[0][0], None, expected_version=99)

    async with request_session(database) as (session, store):
        await session.execute("BEGIN; SELECT now()")
        # The first execution is released now: after the start of the transaction.
        await database.owner.execute(
            "UPDATE jobs.jobs SET release_since = (SELECT clock_timestamp() - interval '1 second')"
            " WHERE tenant_id = $1 AND job_id = 'j'",
            operator.tenant,
        )
        (row,) = await store.update_executions(operator.tenant, [update], wait_ms=0)

    assert (row["outcome"], row["status"]) == ("EXECUTION_CHANGED", "QUEUED")
