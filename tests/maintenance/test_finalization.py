"""Finalization: the sweeper stores derived statuses, and readers see no difference."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest
from fleet.jobs.v1 import jobs_pb2 as pb
from grpc import StatusCode

from jobs_grpc.maintenance.sweeper import Sweeper
from tests.support.callers import Operator, all_executions
from tests.support.database import Database, job_lock_held
from tests.support.failures import expect_failure
from tests.support.retry_policies import rule
from tests.support.server import Server
from tests.support.waiting import TIMEOUT

DEVICES = ["done", "failed", "queued-1", "queued-2", "running"]

# How a job ends: whether a device has its execution IN_PROGRESS, and the status that the
# QUEUED executions get.
ENDS = {
    "canceled": (False, "REJECTED"),
    "canceled, one in progress": (True, "REJECTED"),
    "canceled, then expired": (True, "REJECTED"),
    "canceled with force": (True, "REJECTED"),
    "expired, then canceled with force": (True, "TIMED_OUT"),
    "expired": (False, "TIMED_OUT"),
    "expired, one in progress": (True, "TIMED_OUT"),
    "expired, then canceled": (True, "TIMED_OUT"),
    "expired, then completed by the last report": (True, "TIMED_OUT"),
}


@pytest.fixture
async def sweeper(database: Database) -> AsyncIterator[Sweeper]:
    """A sweeper of the module's database that waits for busy jobs as long as a test takes."""
    async with Sweeper(database.owner_dsn, lock_wait=4 * TIMEOUT) as sweeper:
        yield sweeper


async def read_everything(server: Server, operator: Operator) -> list[bytes]:
    """Return the serialized responses of all calls that read the job "j"."""
    responses: list[Any] = [await operator.get("j")]
    responses += [await operator.list(status=status) for status in pb.Job.Status.values()]
    for status in pb.JobExecution.Status.values():
        responses.append(await operator.executions("j", status=status))
        responses += await all_executions(operator, "j", status=status, limit=1)
    for name in DEVICES:
        device = server.device(operator.tenant, name)
        pending = await device.pending()
        pending.ClearField("poll_after")  # It is random.
        responses += [await device.get("j"), pending]
    return [message.SerializeToString(deterministic=True) for message in responses]


async def end(database: Database, server: Server, operator: Operator, how: str) -> None:
    """Create the job "j" for DEVICES and let it end."""
    in_progress, _ = ENDS[how]
    await database.add_devices(operator.tenant, DEVICES)
    await operator.create(job_id="j", target_all=True)
    running = server.device(operator.tenant, "running")
    await running.start("j", status_details={"percent": 5})
    await server.device(operator.tenant, "done").update("j", "SUCCEEDED", status_details={"n": 1})
    await server.device(operator.tenant, "failed").update("j", "FAILED")
    if not in_progress:
        await running.update("j", "SUCCEEDED")
    if how.startswith("expired"):
        await database.expire(operator.tenant, "j")
    if "canceled" in how:
        await operator.cancel("j", reason='"no"\n\\ é', force=how.endswith("force"))
    if how.endswith("then expired"):
        await database.owner.execute(
            "UPDATE jobs.jobs SET expires_at = (SELECT clock_timestamp()) WHERE tenant_id = $1",
            operator.tenant,
        )
    if how.endswith("report"):
        await running.update("j", "SUCCEEDED")


async def stored(database: Database, operator: Operator) -> tuple[dict[str, int], dict[str, Any]]:
    """Return the number of executions by stored status, and the stored job."""
    rows = await database.owner.fetch(
        "SELECT status::text, count(*)::integer AS n FROM jobs.job_executions WHERE tenant_id = $1"
        " GROUP BY 1",
        operator.tenant,
    )
    job = await database.owner.fetchrow(
        "SELECT j.status::text, finalized, queued, expires_at, completed_at, updated_at"
        " FROM jobs.jobs j JOIN jobs.job_progress USING (tenant_id, job_id) WHERE tenant_id = $1",
        operator.tenant,
    )
    assert job is not None
    return {row["status"]: row["n"] for row in rows}, dict(job)


@pytest.mark.slow
@pytest.mark.parametrize("how", ENDS)
async def test_readers_see_no_difference_after_finalization(
    database: Database, server: Server, operator: Operator, sweeper: Sweeper, how: str
) -> None:
    await end(database, server, operator, how)
    before = await read_everything(server, operator)
    assert (await stored(database, operator))[0]["QUEUED"] == 2

    await sweeper.run_once()

    assert await read_everything(server, operator) == before
    counts, job = await stored(database, operator)
    assert "QUEUED" not in counts
    assert counts[ENDS[how][1]] == (3 if how == "canceled with force" else 2)
    assert "IN_PROGRESS" not in counts or not how.endswith("force")
    assert (job["queued"], job["finalized"]) == (0, True)


async def test_expired_job_is_stored_as_completed_at_its_expiry(
    database: Database, server: Server, operator: Operator, sweeper: Sweeper
) -> None:
    await end(database, server, operator, "expired")

    await sweeper.run_once()

    _, job = await stored(database, operator)
    assert job["status"] == "COMPLETED"
    assert job["completed_at"] == job["updated_at"] == job["expires_at"]


async def test_expired_job_completes_after_finalization_when_its_last_execution_finishes(
    database: Database, server: Server, operator: Operator, sweeper: Sweeper
) -> None:
    await end(database, server, operator, "expired, one in progress")
    await sweeper.run_once()

    last = await server.device(operator.tenant, "running").update("j", "SUCCEEDED")

    job = await operator.get("j")
    assert job.status == pb.Job.COMPLETED
    assert job.completed_at == last.last_updated_at
    await sweeper.run_once()
    assert await operator.get("j") == job


async def test_jobs_in_progress_are_not_changed(
    database: Database, server: Server, operator: Operator, sweeper: Sweeper
) -> None:
    await database.add_devices(operator.tenant, DEVICES)
    await operator.create(job_id="j", target_all=True)
    await operator.create(job_id="k", target_all=True, never_expires=True)
    before = await read_everything(server, operator)
    rows = "SELECT xmin, t.* FROM jobs.jobs t WHERE tenant_id = $1 ORDER BY job_id"
    stored_before = await database.owner.fetch(rows, operator.tenant)

    await sweeper.run_once()

    assert await read_everything(server, operator) == before
    assert await database.owner.fetch(rows, operator.tenant) == stored_before


async def test_job_is_finalized_when_its_last_report_completes_it(
    database: Database, server: Server, operator: Operator, sweeper: Sweeper
) -> None:
    await database.add_devices(operator.tenant, ["done"])
    await operator.create(job_id="j", target_all=True)

    await server.device(operator.tenant, "done").update("j", "SUCCEEDED")

    _, job = await stored(database, operator)
    assert job["finalized"]


@pytest.mark.parametrize("devices", [999, 1000, 1001, 2500])
async def test_large_job_is_finalized_in_batches(
    database: Database, operator: Operator, sweeper: Sweeper, devices: int
) -> None:
    await database.add_devices(operator.tenant, devices)
    await operator.create(job_id="j", target_all=True)
    await database.set_status(operator.tenant, "j", "d00500", "FAILED")
    await operator.cancel("j", reason="no")
    before = await operator.get("j", executions_limit=5000)

    await sweeper.run_once()

    assert await operator.get("j", executions_limit=5000) == before
    counts, job = await stored(database, operator)
    assert counts == {"REJECTED": devices - 1, "FAILED": 1}
    assert job["finalized"]
    largest = await database.owner.fetchval(
        "SELECT max(n) FROM (SELECT count(*) AS n FROM jobs.job_executions"
        " WHERE tenant_id = $1 GROUP BY xmin::text) AS transactions",
        operator.tenant,
    )
    assert largest <= 1000


@pytest.mark.slow
async def test_readers_see_no_difference_between_batches(
    database: Database, server: Server, operator: Operator
) -> None:
    await end(database, server, operator, "expired, then canceled")
    before = await read_everything(server, operator)
    finalize = "SELECT next_device_id FROM jobs.finalize_executions($1, 'j', $2, 1, 0)"

    after: str | None = ""
    batches = 0
    while after is not None:
        after = await database.owner.fetchval(finalize, operator.tenant, after)
        batches += 1
        assert await read_everything(server, operator) == before

    assert batches > 2
    _, job = await stored(database, operator)
    assert job["finalized"]


@pytest.mark.parametrize("batch", [1, 10])
@pytest.mark.parametrize("force", [False, True])
async def test_counts_of_retrying_devices_are_exact_between_batches(
    database: Database, server: Server, operator: Operator, force: bool, batch: int
) -> None:
    await database.add_devices(operator.tenant, 5)
    await operator.create(
        job_id="j", target_all=True, retry_policy=pb.RetryPolicy(rules=[rule(initial=1)])
    )
    for n in range(1, 5):
        await server.device(operator.tenant, f"d{n:05}").update("j", "FAILED")
    await database.owner.execute(
        "UPDATE jobs.job_executions SET not_before = queued_at WHERE tenant_id = $1",
        operator.tenant,
    )
    await server.device(operator.tenant, "d00001").start("j")
    await operator.cancel("j", force=force)

    after: str | None = ""
    while after is not None:
        after = await database.owner.fetchval(
            "SELECT next_device_id FROM jobs.finalize_executions($1, 'j', $2, $3, 0)",
            operator.tenant,
            after,
            batch,
        )
        assert await database.recount(operator.tenant) == []


async def test_finalized_rejection_is_not_repeated_by_a_report(
    database: Database, server: Server, operator: Operator, sweeper: Sweeper
) -> None:
    await database.add_devices(operator.tenant, 1)
    await operator.create(job_id="j", target_all=True)
    await operator.cancel("j")
    await sweeper.run_once()

    with expect_failure(StatusCode.FAILED_PRECONDITION, "EXECUTION_FINISHED"):
        await server.device(operator.tenant, "d00001").update("j", "REJECTED")


async def test_job_is_not_finalized_when_its_expiry_moves_before_the_sweeper_locks_it(
    database: Database, server: Server, operator: Operator, sweeper: Sweeper
) -> None:
    """The search finds the job expired, but its expiry changes before the sweeper locks it."""
    await end(database, server, operator, "expired")
    async with job_lock_held(database, operator.tenant, "j"):
        sweeping = asyncio.create_task(sweeper.run_once())
        await database.wait_for_blocked_sessions(1)
        await database.owner.execute(
            "UPDATE jobs.jobs SET expires_at = now() + interval '1 hour' WHERE tenant_id = $1",
            operator.tenant,
        )
    await sweeping

    counts, job = await stored(database, operator)
    assert counts["QUEUED"] == job["queued"] == 2
    assert (job["status"], job["finalized"]) == ("IN_PROGRESS", False)
    assert (await operator.get("j")).status == pb.Job.IN_PROGRESS


async def test_expired_executions_stay_timed_out_when_job_is_canceled_between_batches(
    database: Database, server: Server, operator: Operator, sweeper: Sweeper
) -> None:
    await end(database, server, operator, "expired, one in progress")
    await database.owner.execute(
        "SELECT jobs.finalize_executions($1, 'j', '', 3, 0)", operator.tenant
    )
    assert (await stored(database, operator))[0]["QUEUED"] == 1

    await operator.cancel("j", reason="no")
    before = await read_everything(server, operator)
    await sweeper.run_once()

    assert await read_everything(server, operator) == before
    counts, job = await stored(database, operator)
    assert counts["TIMED_OUT"] == 2
    assert (job["status"], job["finalized"]) == ("CANCELED", True)


async def test_cancel_keeps_timed_out_executions_when_it_waits_for_finalization(
    database: Database, server: Server, operator: Operator
) -> None:
    await end(database, server, operator, "expired, one in progress")
    finalizing = await asyncpg.connect(database.owner_dsn)
    try:
        async with finalizing.transaction():
            await finalizing.execute(
                "SELECT jobs.finalize_executions($1, 'j', '', 100, 0)",
                operator.tenant,
            )
            canceling = asyncio.create_task(operator.cancel("j", reason="no"))
            await database.wait_for_blocked_sessions(1)
        await canceling
    finally:
        await finalizing.close()

    job = await operator.get("j")
    assert job.status == pb.Job.CANCELED
    assert job.execution_counts == pb.ExecutionCounts(
        succeeded=1, failed=1, timed_out=2, in_progress=1
    )


async def test_finalized_job_is_finalized_again_after_a_forced_cancel(
    database: Database, server: Server, operator: Operator, sweeper: Sweeper
) -> None:
    await end(database, server, operator, "expired, one in progress")
    await sweeper.run_once()
    await operator.cancel("j", reason="no", force=True)
    before = await read_everything(server, operator)

    await sweeper.run_once()

    assert await read_everything(server, operator) == before
    counts, _ = await stored(database, operator)
    assert counts == {"SUCCEEDED": 1, "FAILED": 1, "TIMED_OUT": 2, "REJECTED": 1}


@pytest.mark.slow
async def test_retried_job_is_finalized_again_when_it_expires(
    database: Database, server: Server, operator: Operator, sweeper: Sweeper
) -> None:
    await end(database, server, operator, "expired")
    await sweeper.run_once()
    await operator.retry("j", "TIMED_OUT", expires_in_hours=1)
    await database.expire(operator.tenant, "j")
    before = await read_everything(server, operator)

    await sweeper.run_once()

    assert await read_everything(server, operator) == before
    counts, job = await stored(database, operator)
    assert counts["TIMED_OUT"] == 2
    assert (job["status"], job["finalized"]) == ("COMPLETED", True)
