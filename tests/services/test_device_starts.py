"""How a device learns what to do, and starts it."""

import asyncio

import pytest
from fleet.jobs.v1 import jobs_pb2 as pb
from grpc import StatusCode

from jobs_grpc.db.store import ExecutionUpdate
from tests.support.callers import Device, Operator
from tests.support.database import Database, job_lock_held, request_session
from tests.support.failures import expect_failure
from tests.support.server import Server


@pytest.fixture
async def device(database: Database, server: Server, tenant: str) -> Device:
    """The only device of the test's tenant."""
    await database.add_devices(tenant, ["pump"])
    return server.device(tenant, "pump")


async def test_pending_executions_come_with_their_documents_oldest_first(
    device: Device, operator: Operator
) -> None:
    for job_id in ("first", "second", "third"):
        await operator.create(
            job_id=job_id, target_all=True, document_type=f"do-{job_id}", document_params={"n": 5}
        )

    pending = await device.pending()

    assert [each.job_id for each in pending.executions] == ["first", "second", "third"]
    assert not pending.next_page_token
    first = pending.executions[0]
    assert first.document_type == "do-first"
    assert first.document_params == {"n": 5}
    assert (first.status, first.version, first.execution_number) == (pb.JobExecution.QUEUED, 1, 1)
    assert first.HasField("expires_at")
    assert not first.HasField("started_at")


async def test_what_is_in_progress_comes_first(device: Device, operator: Operator) -> None:
    for job_id in ("first", "second", "third"):
        await operator.create(job_id=job_id, target_all=True)
    await device.start("third")

    pending = await device.pending(limit=2)

    assert [each.job_id for each in pending.executions] == ["third", "first"]
    assert pending.next_page_token


async def test_what_is_over_is_not_pending(
    database: Database, device: Device, operator: Operator
) -> None:
    for job_id in ("done", "canceled", "expired", "live"):
        await operator.create(job_id=job_id, target_all=True)
    await device.update("done", pb.JobExecution.SUCCEEDED)
    await operator.cancel("canceled")
    await database.expire(device.tenant, "expired")

    pending = await device.pending()

    assert [each.job_id for each in pending.executions] == ["live"]


async def test_the_next_one_is_started(device: Device, operator: Operator) -> None:
    await operator.create(job_id="first", target_all=True, document_params={"n": 1})
    await operator.create(job_id="second", target_all=True)

    started = await device.start_next(status_details={"step": "download"})

    assert started is not None
    assert (started.job_id, started.status) == ("first", pb.JobExecution.IN_PROGRESS)
    assert started.version == 2
    assert started.document_params == {"n": 1}
    assert started.status_details == {"step": "download"}
    assert started.HasField("started_at")
    job = await operator.get("first")
    assert job.execution_counts == pb.ExecutionCounts(in_progress=1)
    assert job.executions[0].status == pb.JobExecution.IN_PROGRESS


async def test_a_device_that_lost_the_answer_gets_the_same_one_again(
    device: Device, operator: Operator
) -> None:
    await operator.create(job_id="first", target_all=True)
    await operator.create(job_id="second", target_all=True)

    first = await device.start_next()
    again = await device.start_next(status_details={"ignored": True})

    assert again == first


async def test_nothing_to_do_is_no_execution(device: Device, operator: Operator) -> None:
    assert await device.start_next() is None

    await operator.create(job_id="j", target_all=True)
    await operator.cancel("j")

    assert await device.start_next() is None


async def test_a_certain_job_can_be_started(device: Device, operator: Operator) -> None:
    await operator.create(job_id="first", target_all=True)
    await operator.create(job_id="second", target_all=True)

    started = await device.start("second")
    again = await device.start("second")

    assert (started.job_id, started.status) == ("second", pb.JobExecution.IN_PROGRESS)
    assert again == started == await device.get("second")


@pytest.mark.parametrize("end", ["canceled", "expired", "succeeded"])
async def test_what_is_over_can_not_start(
    database: Database, device: Device, operator: Operator, end: str
) -> None:
    await operator.create(job_id="j", target_all=True)
    match end:
        case "canceled":
            await operator.cancel("j")
        case "expired":
            await database.expire(device.tenant, "j")
        case _:
            await device.update("j", pb.JobExecution.SUCCEEDED)

    with expect_failure(StatusCode.FAILED_PRECONDITION, "EXECUTION_FINISHED") as failure:
        await device.start("j")

    status = {"canceled": "REJECTED", "expired": "TIMED_OUT", "succeeded": "SUCCEEDED"}[end]
    assert failure.metadata == {"jobId": "j", "deviceId": "pump", "status": status}
    assert failure.message == f"Execution is finished in status {status}"


async def test_other_devices_and_tenants_executions_are_not_found(
    database: Database, server: Server, device: Device, operator: Operator
) -> None:
    await operator.create(job_id="j", target_all=True)
    strangers = [server.device(device.tenant, "other"), server.device("elsewhere", "pump")]

    for stranger in strangers:
        with expect_failure(StatusCode.NOT_FOUND, "EXECUTION_NOT_FOUND"):
            await stranger.start("j")
        with expect_failure(StatusCode.NOT_FOUND, "EXECUTION_NOT_FOUND"):
            await stranger.get("j")
        with expect_failure(StatusCode.NOT_FOUND, "EXECUTION_NOT_FOUND"):
            await stranger.update("j", pb.JobExecution.SUCCEEDED)
        assert await stranger.start_next() is None
        assert not (await stranger.pending()).executions


async def test_of_cancel_and_start_at_once_the_first_wins(
    database: Database, device: Device, operator: Operator
) -> None:
    """A cancel holds the job, uncommitted, while the start waits for it."""
    await operator.create(job_id="j", target_all=True)
    async with request_session(database) as (canceling, _), canceling.transaction():
        await canceling.execute("SELECT jobs.cancel_job($1, 'j', 'no')", device.tenant)
        starting = asyncio.create_task(device.start("j"))
        await database.wait_for_blocked_sessions(1)

    with expect_failure(StatusCode.FAILED_PRECONDITION, "EXECUTION_FINISHED"):
        await starting


async def test_a_next_one_that_is_canceled_meanwhile_is_passed_over(
    database: Database, device: Device, operator: Operator
) -> None:
    await operator.create(job_id="j", target_all=True)
    await operator.create(job_id="second", target_all=True)
    async with request_session(database) as (canceling, _), canceling.transaction():
        await canceling.execute("SELECT jobs.cancel_job($1, 'j', 'no')", device.tenant)
        starting = asyncio.create_task(device.start_next())
        await database.wait_for_blocked_sessions(1)

    started = await starting
    assert started is not None
    assert started.job_id == "second"


async def test_while_one_start_waits_for_a_job_it_holds_no_other_one(
    database: Database, device: Device, operator: Operator
) -> None:
    """So starts that fall through to a second job can't wait for each other in a circle."""
    await operator.create(job_id="z", target_all=True)
    await operator.create(job_id="a", target_all=True)
    async with request_session(database) as (canceling, _), request_session(database) as (_, store):
        async with canceling.transaction():
            await canceling.execute("SELECT jobs.cancel_job($1, 'z', 'no')", device.tenant)
            update = ExecutionUpdate(None, device.name, None, must_be_next=True)
            starting = asyncio.create_task(
                store.update_executions(device.tenant, [update], wait_ms=30000)
            )
            await database.wait_for_blocked_sessions(1)
        (row,) = await starting

    assert (row["outcome"], row["job_id"]) == ("AGAIN", "z")
    assert (await device.get("a")).status == pb.JobExecution.QUEUED


@pytest.mark.parametrize("next_", [False, True], ids=["start", "start next"])
async def test_of_expiry_and_start_at_once_expiry_wins(
    database: Database, device: Device, operator: Operator, next_: bool
) -> None:
    """The start began before the expiry, but had the job only after it."""
    await operator.create(job_id="j", target_all=True)
    async with job_lock_held(database, device.tenant, "j"):
        starting = asyncio.create_task(device.start_next() if next_ else device.start("j"))
        await database.wait_for_blocked_sessions(1)
        await database.owner.execute(
            "UPDATE jobs.jobs SET expires_at = clock_timestamp() WHERE tenant_id = $1",
            device.tenant,
        )

    if next_:
        assert await starting is None
    else:
        with expect_failure(StatusCode.FAILED_PRECONDITION, "EXECUTION_FINISHED"):
            await starting


async def test_two_starts_at_once_start_one_execution(
    database: Database, device: Device, operator: Operator
) -> None:
    """Through two servers, since one would not send both at once."""
    await operator.create(job_id="first", target_all=True)
    await operator.create(job_id="second", target_all=True)
    async with request_session(database) as (_, one), request_session(database) as (_, other):
        async with job_lock_held(database, device.tenant, "first"):
            starts = [
                asyncio.create_task(
                    store.update_executions(
                        device.tenant,
                        [ExecutionUpdate(None, device.name, None, must_be_next=True)],
                        wait_ms=30000,
                    )
                )
                for store in (one, other)
            ]
            await database.wait_for_blocked_sessions(2)
        rows = [row for start in starts for row in await start]

    assert sorted(row["outcome"] for row in rows) == ["APPLIED", "REPEATED"]
    assert {(row["job_id"], row["version"]) for row in rows} == {("first", 2)}
    assert (await operator.get("first")).execution_counts == pb.ExecutionCounts(in_progress=1)
    assert (await operator.get("second")).execution_counts == pb.ExecutionCounts(queued=1)
