"""UpdateExecution: its effect on the execution and on the job."""

import asyncio
from typing import Any

import pytest
from fleet.jobs.v1 import jobs_pb2 as pb

from jobs_grpc.db.store import ExecutionUpdate
from tests.support.callers import Device, Operator
from tests.support.database import Database, job_lock_held, request_session, send_batch, uncommitted
from tests.support.failures import expect_error, invalid_fields
from tests.support.world import World

TERMINAL = ["SUCCEEDED", "FAILED", "REJECTED"]


@pytest.fixture(autouse=True)
async def job(world: World) -> None:
    await world.add_devices(["pump"])
    await world.create()


@pytest.fixture
async def two(world: World) -> list[Device]:
    """The devices "a" and "b", with QUEUED executions of job "k"."""
    await world.add_devices(["a", "b"])
    await world.create("k", target_device_ids={"device_ids": ["a", "b"]})
    return [world.device(name) for name in "ab"]


@pytest.mark.parametrize("before", ["QUEUED", "IN_PROGRESS"])
@pytest.mark.parametrize("status", [*TERMINAL, "IN_PROGRESS"])
async def test_report_changes_the_execution_and_the_counts(
    world: World, before: str, status: str
) -> None:
    if before == "IN_PROGRESS":
        await world.pump.start("j")

    after = await world.pump.update("j", status, status_details={"note": status})

    assert pb.JobExecution.Status.Name(after.status) == status
    assert after.status_details == {"note": status}
    assert after.version == (3 if before == "IN_PROGRESS" else 2)
    assert after.HasField("started_at") == ("IN_PROGRESS" in (before, status))
    job = await world.operator.get("j")
    assert job.execution_counts == pb.ExecutionCounts(**{status.lower(): 1})
    assert job.executions[0].status == after.status


async def test_progress_keeps_the_time_of_the_start(world: World) -> None:
    started = await world.pump.start("j")

    after = await world.pump.update("j", "IN_PROGRESS")

    assert after.started_at == started.started_at


async def test_status_details_are_kept_when_report_has_none(world: World) -> None:
    await world.pump.update("j", "IN_PROGRESS", status_details={"percent": 10})

    after = await world.pump.update("j", "IN_PROGRESS")
    cleared = await world.pump.update("j", "IN_PROGRESS", status_details={})

    assert after.status_details == {"percent": 10}
    assert cleared.HasField("status_details")
    assert cleared.status_details == {}


@pytest.mark.parametrize("status", TERMINAL)
async def test_finished_execution_accepts_only_the_same_report(world: World, status: str) -> None:
    first = await world.pump.update("j", status, status_details={"n": 1}, expected_version=1)

    repeated = await world.pump.update("j", status, status_details={"n": 1}, expected_version=1)
    without_details = await world.pump.update("j", status)

    assert first == repeated == without_details
    for other in (*TERMINAL, "IN_PROGRESS"):
        failure = await expect_error(
            "EXECUTION_FINISHED", world.pump.update("j", other, status_details={"n": 2})
        )
        assert failure.message == (
            f"The execution of job j on device pump is finished in status {status}"
        )
    assert await world.pump.get("j") == first


async def test_error_leaves_out_large_documents_and_status_details(world: World) -> None:
    large = {"text": "x" * 30_000}
    await world.create("large", document_params=large)
    await world.pump.update("large", "IN_PROGRESS", status_details=large)

    failure = await expect_error(
        "EXECUTION_CHANGED", world.pump.update("large", "SUCCEEDED", expected_version=1)
    )

    assert failure.current
    assert not failure.current.HasField("document_params")
    assert not failure.current.HasField("status_details")
    assert (failure.current.job_id, failure.current.version) == ("large", 2)


@pytest.mark.parametrize("expectation", [{"expected_version": 1}, {"execution_number": 2}])
async def test_report_is_rejected_with_the_current_execution_when_version_or_attempt_differs(
    world: World, expectation: dict[str, Any]
) -> None:
    current = await world.pump.start("j")

    failure = await expect_error(
        "EXECUTION_CHANGED", world.pump.update("j", "SUCCEEDED", **expectation)
    )

    assert current == await world.pump.get("j")
    current.ClearField("document_params")
    assert failure.current == current
    updated = await world.pump.update("j", "SUCCEEDED", expected_version=2, execution_number=1)
    assert updated.version == 3


async def test_invalid_report_is_rejected_with_the_field_name(world: World) -> None:
    for status in ("QUEUED", "TIMED_OUT", 0, 99):
        assert await invalid_fields(world.pump.update("j", status)) == ["status"]
    assert await invalid_fields(world.pump.update("", "SUCCEEDED")) == ["job_id"]
    assert await invalid_fields(
        world.pump.update("j", "SUCCEEDED", status_details={"a": float("nan")})
    ) == ["status_details.a"]
    assert await invalid_fields(
        world.pump.update("j", "SUCCEEDED", status_details={"a": "x" * 40_000})
    ) == ["status_details"]


async def test_job_completes_when_its_last_execution_finishes(
    two: list[Device], operator: Operator
) -> None:
    a, b = two
    await a.update("k", "SUCCEEDED")
    assert (await operator.get("k")).status == pb.Job.IN_PROGRESS
    last = await b.update("k", "FAILED")

    job = await operator.get("k")
    assert job.status == pb.Job.COMPLETED
    assert job.completed_at == last.last_updated_at == job.updated_at
    assert [job.job_id for job in (await operator.list(status="COMPLETED")).jobs] == ["k"]


async def test_expired_job_completes_when_its_last_execution_in_progress_finishes(
    database: Database, two: list[Device], operator: Operator
) -> None:
    await two[0].start("k")
    await database.expire(operator.tenant, "k")
    assert (await operator.get("k")).status == pb.Job.IN_PROGRESS

    last = await two[0].update("k", "SUCCEEDED")

    job = await operator.get("k")
    assert (job.status, job.completed_at) == (pb.Job.COMPLETED, last.last_updated_at)
    assert job.execution_counts == pb.ExecutionCounts(succeeded=1, timed_out=1)


@pytest.mark.single_node("a call inside a transaction is not delegated on Citus")
async def test_job_completes_once_when_its_last_two_reports_are_concurrent(
    database: Database, two: list[Device], operator: Operator
) -> None:
    """The second report is processed before the first one commits."""
    async with request_session(database) as (first, store):
        async with first.transaction():
            report = ExecutionUpdate("k", "a", "SUCCEEDED")
            await store.update_executions(operator.tenant, [report], wait_ms=30000)
            second = await database.blocked(two[1].update("k", "SUCCEEDED"))
        last = await second

    job = await operator.get("k")
    assert (job.status, job.completed_at) == (pb.Job.COMPLETED, last.last_updated_at)


async def test_cancel_is_rejected_after_a_report_that_completes_the_job(world: World) -> None:
    calls = world.pump.update("j", "SUCCEEDED"), world.operator.cancel("j")
    failure = await world.second_fails("JOB_NOT_CANCELABLE", *calls)

    assert failure.message == "Cannot cancel job in status COMPLETED"
    assert (await world.operator.get("j")).status == pb.Job.COMPLETED


async def test_batches_do_not_deadlock_when_they_name_jobs_in_opposite_orders(world: World) -> None:
    await world.add_devices(["a", "b"])
    for job_id in ("j1", "j2"):
        await world.create(job_id, target_device_id="a" if job_id == "j1" else "b")
    forward = [ExecutionUpdate("j1", "a", "SUCCEEDED"), ExecutionUpdate("j2", "b", "IN_PROGRESS")]
    backward = [ExecutionUpdate("j2", "b", "SUCCEEDED"), ExecutionUpdate("j1", "a", "SUCCEEDED")]
    # Both batches first lock the job that is first in key order.
    async with world.lock_held("j1"):
        batches = [
            asyncio.create_task(send_batch(world.database, world.tenant, *updates))
            for updates in (forward, backward)
        ]
        await world.database.wait_for_blocked_sessions(2)
        lock = "SELECT FROM jobs.job_progress WHERE tenant_id = $1 AND job_id = 'j2'"
        await world.execute(f"{lock} FOR UPDATE NOWAIT")
    await asyncio.gather(*batches)

    for job_id in ("j1", "j2"):
        assert (await world.operator.get(job_id)).status == pb.Job.COMPLETED


async def test_batch_returns_busy_for_a_job_that_it_has_not_locked(
    database: Database, two: list[Device], operator: Operator
) -> None:
    """The job is created while the batch waits for the lock of another job."""
    updates = [ExecutionUpdate("k", "a", "SUCCEEDED"), ExecutionUpdate("new", "b", "SUCCEEDED")]
    async with job_lock_held(database, operator.tenant, "k"):
        batch = await database.blocked(send_batch(database, operator.tenant, *updates))
        await operator.create(job_id="new", target_all=True)

    assert [row["outcome"] for row in await batch] == ["APPLIED", "BUSY"]
    assert await operator.counts("new") == {"queued": 3}


@pytest.mark.single_node("a call inside a transaction is not delegated on Citus")
async def test_report_is_accepted_only_after_the_create_of_its_job_commits(world: World) -> None:
    create = """
        SELECT * FROM jobs.create_job(
            $1, 'new', '{"document_type": "reboot", "target_all": true}', '{}', NULL, 9, NULL, 24)
    """
    async with uncommitted(world.database, create, world.tenant):
        await expect_error("EXECUTION_NOT_FOUND", world.pump.update("new", "SUCCEEDED"))
        started = await world.pump.start_next()
        assert started is not None
        assert started.job_id == "j"

    await world.pump.update("new", "SUCCEEDED")
    job = await world.operator.get("new")
    assert (job.status, job.execution_counts.succeeded) == (pb.Job.COMPLETED, 1)
