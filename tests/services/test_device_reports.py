"""What a device reports, and what becomes of its job."""

import asyncio
from typing import Any

import pytest
from fleet.jobs.v1 import jobs_pb2 as pb
from fleet.jobs.v1.device_jobs_pb2 import ListPendingExecutionsRequest
from grpc import StatusCode

from jobs_grpc.db.store import ExecutionUpdate
from tests.support.callers import Device, Operator
from tests.support.database import Database, job_lock_held, request_session
from tests.support.failures import expect_failure
from tests.support.server import Server

FINAL = ["SUCCEEDED", "FAILED", "REJECTED"]


@pytest.fixture
async def device(database: Database, server: Server, operator: Operator) -> Device:
    """The only device of the test's tenant, with a job "j" QUEUED."""
    await database.add_devices(operator.tenant, ["pump"])
    await operator.create(job_id="j", target_all=True)
    return server.device(operator.tenant, "pump")


@pytest.mark.parametrize("before", ["QUEUED", "IN_PROGRESS"])
@pytest.mark.parametrize("status", [*FINAL, "IN_PROGRESS"])
async def test_it_moves_the_execution_and_the_counts(
    device: Device, operator: Operator, before: str, status: str
) -> None:
    if before == "IN_PROGRESS":
        await device.start("j")

    after = await device.update("j", status, status_details={"note": status})

    assert pb.JobExecution.Status.Name(after.status) == status
    assert after.status_details == {"note": status}
    assert after.version == (3 if before == "IN_PROGRESS" else 2)
    assert after.HasField("started_at") == ("IN_PROGRESS" in (before, status))
    job = await operator.get("j")
    assert job.execution_counts == pb.ExecutionCounts(**{status.lower(): 1})
    assert job.executions[0].status == after.status


async def test_omitted_details_are_kept(device: Device) -> None:
    await device.update("j", "IN_PROGRESS", status_details={"percent": 10})

    after = await device.update("j", "IN_PROGRESS")
    cleared = await device.update("j", "IN_PROGRESS", status_details={})

    assert after.status_details == {"percent": 10}
    assert cleared.HasField("status_details")
    assert cleared.status_details == {}


@pytest.mark.parametrize("status", FINAL)
async def test_the_same_final_report_again_is_answered_with_what_is_stored(
    device: Device, operator: Operator, status: str
) -> None:
    first = await device.update("j", status, status_details={"n": 1}, expected_version=1)

    again = await device.update("j", status, status_details={"n": 1}, expected_version=1)
    without_details = await device.update("j", status)

    assert first == again == without_details
    assert (await operator.get("j")).total_executions == 1


@pytest.mark.parametrize("status", [*FINAL, "IN_PROGRESS"])
async def test_final_is_final(device: Device, status: str) -> None:
    await device.update("j", "SUCCEEDED", status_details={"n": 1})

    with expect_failure(StatusCode.FAILED_PRECONDITION, "EXECUTION_FINISHED") as failure:
        await device.update("j", status, status_details={"n": 2})

    assert failure.message == "Execution is finished in status SUCCEEDED"
    assert (await device.get("j")).status_details == {"n": 1}


async def test_a_mismatch_is_reported_when_document_and_details_exceed_error_details(
    server: Server, device: Device, operator: Operator
) -> None:
    large = {"text": "x" * 30_000}
    await operator.create(job_id="large", target_all=True, document_params=large)
    await device.update("large", "IN_PROGRESS", status_details=large)

    with expect_failure(StatusCode.ABORTED, "EXECUTION_CHANGED") as failure:
        await device.update("large", "SUCCEEDED", expected_version=1)

    assert failure.current
    assert not failure.current.HasField("document_params")
    assert not failure.current.HasField("status_details")
    assert (failure.current.job_id, failure.current.version) == ("large", 2)


@pytest.mark.parametrize("expectation", [{"expected_version": 1}, {"execution_number": 2}])
async def test_a_mismatch_is_answered_with_the_present_state(
    device: Device, expectation: dict[str, Any]
) -> None:
    present = await device.start("j")

    with expect_failure(StatusCode.ABORTED, "EXECUTION_CHANGED") as failure:
        await device.update("j", "SUCCEEDED", **expectation)

    assert present == await device.get("j")
    present.ClearField("document_params")
    assert failure.current == present
    done = await device.update("j", "SUCCEEDED", expected_version=2, execution_number=1)
    assert done.version == 3


@pytest.mark.parametrize(
    ("fields", "at_fault"),
    [
        ({"status": "QUEUED"}, "status"),
        ({"status": "TIMED_OUT"}, "status"),
        ({"status": 0}, "status"),
        ({"status": 99}, "status"),
        ({"job_id": ""}, "job_id"),
        ({"status_details": {"a": float("nan")}}, "status_details.a"),
        ({"status_details": {"a": "x" * 40_000}}, "status_details"),
    ],
)
async def test_a_wrong_report_names_the_field(
    device: Device, fields: dict[str, Any], at_fault: str
) -> None:
    request = {"job_id": "j", "status": "SUCCEEDED"} | fields

    with expect_failure(StatusCode.INVALID_ARGUMENT, "INVALID_FIELD") as failure:
        await device.update(**request)

    assert set(failure.violations) == {at_fault}


async def test_a_device_must_say_which_it_is(device: Device) -> None:
    nameless = Device(device.stub, device.tenant, "")
    with expect_failure(StatusCode.UNAUTHENTICATED, "INVALID_METADATA"):
        await nameless.pending()

    with expect_failure(StatusCode.UNAUTHENTICATED, "DEVICE_REQUIRED"):
        await device.stub.ListPendingExecutions(
            ListPendingExecutionsRequest(), metadata=(("x-tenant-id", device.tenant),)
        )


async def test_a_running_device_of_a_canceled_job_may_report_and_the_job_stays_canceled(
    device: Device, operator: Operator
) -> None:
    await device.start("j")
    await operator.cancel("j")

    await device.update("j", "IN_PROGRESS", status_details={"percent": 50})
    await device.update("j", "SUCCEEDED")

    job = await operator.get("j")
    assert job.status == pb.Job.CANCELED
    assert not job.HasField("completed_at")
    assert job.execution_counts == pb.ExecutionCounts(succeeded=1)


async def test_the_last_final_report_completes_the_job(
    database: Database, server: Server, operator: Operator
) -> None:
    await database.add_devices(operator.tenant, ["a", "b"])
    await operator.create(job_id="j", target_all=True)
    a, b = (server.device(operator.tenant, name) for name in ("a", "b"))

    await a.update("j", "SUCCEEDED")
    assert (await operator.get("j")).status == pb.Job.IN_PROGRESS
    last = await b.update("j", "FAILED")

    job = await operator.get("j")
    assert job.status == pb.Job.COMPLETED
    assert job.completed_at == last.last_updated_at == job.updated_at
    assert [each.job_id for each in (await operator.list(status="COMPLETED")).jobs] == ["j"]


async def test_the_last_running_device_completes_an_expired_job(
    database: Database, device: Device, operator: Operator
) -> None:
    await database.add_devices(operator.tenant, ["late"])
    await operator.create(job_id="k", target_all=True)
    await device.start("k")
    await database.expire(operator.tenant, "k")
    assert (await operator.get("k")).status == pb.Job.IN_PROGRESS

    last = await device.update("k", "SUCCEEDED")

    job = await operator.get("k")
    assert job.status == pb.Job.COMPLETED
    assert job.completed_at == last.last_updated_at
    assert job.execution_counts == pb.ExecutionCounts(succeeded=1, timed_out=1)


async def test_two_last_devices_at_once_complete_the_job_once(
    database: Database, server: Server, operator: Operator
) -> None:
    """Neither sees the other's report until it has committed, and yet one is the last."""
    await database.add_devices(operator.tenant, ["a", "b"])
    await operator.create(job_id="j", target_all=True)
    async with request_session(database) as (first, store):
        async with first.transaction():
            await store.update_executions(
                operator.tenant, [ExecutionUpdate("j", "a", "SUCCEEDED")], wait_ms=30000
            )
            second = asyncio.create_task(
                server.device(operator.tenant, "b").update("j", "SUCCEEDED")
            )
            await database.wait_for_blocked_sessions(1)
        last = await second

    job = await operator.get("j")
    assert job.status == pb.Job.COMPLETED
    assert job.completed_at == last.last_updated_at


async def test_of_cancel_and_last_report_at_once_the_first_wins(
    database: Database, device: Device, operator: Operator
) -> None:
    async with job_lock_held(database, device.tenant, "j"):
        reporting = asyncio.create_task(device.update("j", "SUCCEEDED"))
        await database.wait_for_blocked_sessions(1)
        canceling = asyncio.create_task(operator.cancel("j"))
        await database.wait_for_blocked_sessions(2)

    await reporting
    with expect_failure(StatusCode.FAILED_PRECONDITION, "JOB_NOT_CANCELABLE") as failure:
        await canceling
    assert failure.message == "Cannot cancel job in status COMPLETED"
    assert (await operator.get("j")).status == pb.Job.COMPLETED


async def test_of_expiry_and_report_at_once_expiry_wins(
    database: Database, device: Device, operator: Operator
) -> None:
    """The report began before the expiry, but had the job only after it."""
    async with job_lock_held(database, device.tenant, "j"):
        reporting = asyncio.create_task(device.update("j", "SUCCEEDED"))
        await database.wait_for_blocked_sessions(1)
        await database.owner.execute(
            "UPDATE jobs.jobs SET expires_at = clock_timestamp() WHERE tenant_id = $1",
            device.tenant,
        )

    with expect_failure(StatusCode.FAILED_PRECONDITION, "EXECUTION_FINISHED") as failure:
        await reporting
    assert failure.metadata["status"] == "TIMED_OUT"
    assert (await operator.get("j")).execution_counts == pb.ExecutionCounts(timed_out=1)


async def test_batches_in_opposite_orders_do_not_deadlock(
    database: Database, operator: Operator
) -> None:
    await database.add_devices(operator.tenant, ["a", "b"])
    for job_id in ("j1", "j2"):
        await operator.create(job_id=job_id, target_device_id="a" if job_id == "j1" else "b")
    forward = [ExecutionUpdate("j1", "a", "SUCCEEDED"), ExecutionUpdate("j2", "b", "IN_PROGRESS")]
    backward = [ExecutionUpdate("j2", "b", "SUCCEEDED"), ExecutionUpdate("j1", "a", "SUCCEEDED")]
    async with request_session(database) as (_, one), request_session(database) as (_, other):
        # Both wait for the row that is first in key order, whichever they name first.
        async with job_lock_held(database, operator.tenant, "j1"):
            batches = [
                asyncio.create_task(
                    store.update_executions(operator.tenant, updates, wait_ms=30000)
                )
                for store, updates in ((one, forward), (other, backward))
            ]
            await database.wait_for_blocked_sessions(2)
            await database.owner.execute(
                "SELECT FROM jobs.job_progress WHERE tenant_id = $1 AND job_id = 'j2'"
                " FOR UPDATE NOWAIT",
                operator.tenant,
            )
        await asyncio.gather(*batches)

    for job_id in ("j1", "j2"):
        assert (await operator.get(job_id)).status == pb.Job.COMPLETED


async def test_a_batch_does_not_touch_a_job_that_it_did_not_lock(
    database: Database, operator: Operator
) -> None:
    """It was created, and then taken by somebody else, while the batch waited for another."""
    await database.add_devices(operator.tenant, ["a", "b"])
    await operator.create(job_id="j", target_all=True)
    updates = [ExecutionUpdate("j", "a", "SUCCEEDED"), ExecutionUpdate("new", "b", "SUCCEEDED")]
    async with request_session(database) as (_, store):
        async with job_lock_held(database, operator.tenant, "j"):
            batch = asyncio.create_task(
                store.update_executions(operator.tenant, updates, wait_ms=30000)
            )
            await database.wait_for_blocked_sessions(1)
            await operator.create(job_id="new", target_all=True)
        rows = await batch

    assert [row["outcome"] for row in rows] == ["APPLIED", "BUSY"]
    assert (await operator.get("new")).execution_counts == pb.ExecutionCounts(queued=2)


async def test_a_job_can_be_reported_on_once_its_create_has_committed(
    database: Database, server: Server, operator: Operator
) -> None:
    await database.add_devices(operator.tenant, ["a"])
    await operator.create(job_id="j", target_all=True)
    device = server.device(operator.tenant, "a")
    async with request_session(database) as (creating, store):
        async with creating.transaction():
            await store.create_job(
                operator.tenant,
                job_id="new",
                document_type="reboot",
                document_params="{}",
                target_device_id=None,
                target_group_id=None,
                target_all=True,
                expires_in_hours=None,
                in_progress_timeout_minutes=None,
                created_by=None,
                max_targets=9,
                max_active_jobs=None,
            )
            with expect_failure(StatusCode.NOT_FOUND, "EXECUTION_NOT_FOUND"):
                await device.update("new", "SUCCEEDED")
            started = await device.start_next()
        assert started is not None
        assert started.job_id == "j"

    await device.update("new", "SUCCEEDED")
    job = await operator.get("new")
    assert (job.status, job.execution_counts.succeeded) == (pb.Job.COMPLETED, 1)
