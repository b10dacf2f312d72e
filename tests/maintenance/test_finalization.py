"""Finalization: the sweeper stores derived statuses, and readers see no difference."""

from typing import Any

import pytest
from fleet.jobs.v1 import jobs_pb2 as pb

from jobs_grpc.maintenance.sweeper import Sweeper
from tests.support.callers import all_executions
from tests.support.failures import expect_error
from tests.support.postgres import connected
from tests.support.retry_policies import rule
from tests.support.world import World

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


async def read_everything(world: World) -> list[bytes]:
    """Return the serialized responses of all calls that read the job "j"."""
    operator = world.operator
    responses: list[Any] = [await operator.get("j")]
    responses += [await operator.list(status=status) for status in pb.Job.Status.values()]
    for status in pb.JobExecution.Status.values():
        responses.append(await operator.executions("j", status=status))
        responses += await all_executions(operator, "j", status=status, limit=1)
    for name in DEVICES:
        pending = await world.device(name).pending()
        pending.ClearField("poll_after")  # It is random.
        responses += [await world.device(name).get("j"), pending]
    return [message.SerializeToString(deterministic=True) for message in responses]


async def end(world: World, how: str) -> None:
    """Create the job "j" for DEVICES and let it end."""
    await world.add_devices(DEVICES)
    await world.create()
    running = world.device("running")
    await running.start("j", status_details={"percent": 5})
    await world.device("done").update("j", "SUCCEEDED", status_details={"n": 1})
    await world.device("failed").update("j", "FAILED")
    if not ENDS[how][0]:
        await running.update("j", "SUCCEEDED")
    if how.startswith("expired"):
        await world.expire()
    if "canceled" in how:
        await world.operator.cancel("j", reason='"no"\n\\ é', force=how.endswith("force"))
    if how.endswith("then expired"):
        await world.execute(
            "UPDATE jobs.jobs SET expires_at = (SELECT jobs.clock_time()) WHERE tenant_id = $1"
        )
    if how.endswith("report"):
        await running.update("j", "SUCCEEDED")


async def stored(world: World) -> tuple[dict[str, int], Any]:
    """Return the number of executions by stored status, and the stored job."""
    counts = await world.rows(
        "SELECT status::text, count(*)::integer FROM jobs.job_executions WHERE tenant_id = $1"
        " GROUP BY 1"
    )
    (job,) = await world.rows(
        "SELECT j.status::text, finalized, queued, expires_at, completed_at, updated_at"
        " FROM jobs.jobs j JOIN jobs.job_progress USING (tenant_id, job_id) WHERE tenant_id = $1"
    )
    return dict(counts), job


async def check_sweep(world: World) -> tuple[dict[str, int], Any]:
    """Sweep, and return what is stored then. Readers see no difference."""
    before = await read_everything(world)

    await world.sweep()

    assert await read_everything(world) == before
    counts, job = await stored(world)
    assert "QUEUED" not in counts
    assert (job["queued"], job["finalized"]) == (0, True)
    return counts, job


@pytest.mark.slow
@pytest.mark.parametrize("how", ENDS)
async def test_readers_see_no_difference_after_finalization(world: World, how: str) -> None:
    await end(world, how)
    assert (await stored(world))[0]["QUEUED"] == 2

    counts, job = await check_sweep(world)

    assert counts[ENDS[how][1]] == (3 if how == "canceled with force" else 2)
    assert "IN_PROGRESS" not in counts or not how.endswith("force")
    if how == "expired":
        assert job["status"] == "COMPLETED"
        assert job["completed_at"] == job["updated_at"] == job["expires_at"]


async def test_expired_job_completes_after_finalization_with_its_last_report(world: World) -> None:
    await end(world, "expired, one in progress")
    await world.sweep()

    last = await world.device("running").update("j", "SUCCEEDED")

    job = await world.operator.get("j")
    assert job.status == pb.Job.COMPLETED
    assert job.completed_at == last.last_updated_at
    await world.sweep()
    assert await world.operator.get("j") == job


async def test_jobs_in_progress_are_not_changed(world: World) -> None:
    await world.add_devices(DEVICES)
    await world.create()
    await world.create("k", never_expires=True)
    before = await read_everything(world)
    rows = "SELECT xmin, t.* FROM jobs.jobs t WHERE tenant_id = $1 ORDER BY job_id"
    stored_before = await world.rows(rows)

    await world.sweep()

    assert await read_everything(world) == before
    assert await world.rows(rows) == stored_before


async def test_job_is_finalized_when_its_last_report_completes_it(world: World) -> None:
    await world.add_devices(["done"])
    await world.create()

    await world.device("done").update("j", "SUCCEEDED")

    assert (await stored(world))[1]["finalized"]


@pytest.mark.parametrize("devices", [1000, 2001])
async def test_large_job_is_finalized_in_batches(world: World, devices: int) -> None:
    await world.add_devices(devices)
    await world.create()
    await world.database.set_status(world.tenant, "j", "d00500", "FAILED")
    await world.operator.cancel("j", reason="no")
    before = await world.operator.get("j", executions_limit=5000)

    await world.sweep()

    assert await world.operator.get("j", executions_limit=5000) == before
    counts, job = await stored(world)
    assert counts == {"REJECTED": devices - 1, "FAILED": 1}
    assert job["finalized"]
    largest = await world.owner_value(
        "SELECT max(n) FROM (SELECT count(*) AS n FROM jobs.job_executions"
        " WHERE tenant_id = $1 GROUP BY xmin::text) AS transactions"
    )
    assert largest <= 1000


async def finalize(world: World, after: str | None = "", batch: int = 1) -> str | None:
    """Finalize a batch of executions after a device; return the device to continue after."""
    sql = "SELECT next_device_id FROM jobs.finalize_executions($1, 'j', $2, $3, 0)"
    found: str | None = await world.owner_value(sql, after, batch)
    return found


@pytest.mark.slow
async def test_readers_see_no_difference_between_batches(world: World) -> None:
    await end(world, "expired, then canceled")
    before = await read_everything(world)

    after: str | None = ""
    batches = 0
    while after is not None:
        after = await finalize(world, after)
        batches += 1
        assert await read_everything(world) == before

    assert batches > 2
    assert (await stored(world))[1]["finalized"]


@pytest.mark.parametrize("force", [False, True])
async def test_counts_of_retries_are_exact_between_batches(world: World, force: bool) -> None:
    await world.add_devices(5)
    await world.create(retry_policy=pb.RetryPolicy(rules=[rule(initial=1)]))
    for n in range(1, 5):
        await world.device(f"d{n:05}").update("j", "FAILED")
    await world.pass_time(1)
    await world.device("d00001").start("j")
    await world.operator.cancel("j", force=force)

    after: str | None = ""
    while after is not None:
        after = await finalize(world, after)
        assert await world.database.recount(world.tenant) == []


async def test_finalized_rejection_is_not_repeated_by_a_report(world: World) -> None:
    await world.add_devices(1)
    await world.create()
    await world.operator.cancel("j")
    await world.sweep()

    await expect_error("EXECUTION_FINISHED", world.device("d00001").update("j", "REJECTED"))


async def test_job_whose_expiry_moves_is_not_finalized(world: World, sweeper: Sweeper) -> None:
    """The search finds the job expired, but its expiry changes before the sweeper locks it."""
    await end(world, "expired")
    async with world.lock_held():
        sweeping = await world.blocked(sweeper.run_once())
        await world.execute(
            "UPDATE jobs.jobs SET expires_at = now() + interval '1 hour' WHERE tenant_id = $1"
        )
    await sweeping

    counts, job = await stored(world)
    assert counts["QUEUED"] == job["queued"] == 2
    assert (job["status"], job["finalized"]) == ("IN_PROGRESS", False)
    assert await world.operator.status() == "IN_PROGRESS"


async def test_expired_executions_stay_timed_out_if_canceled_between_batches(world: World) -> None:
    await end(world, "expired, one in progress")
    await finalize(world, batch=3)
    assert (await stored(world))[0]["QUEUED"] == 1
    await world.operator.cancel("j", reason="no")

    counts, job = await check_sweep(world)

    assert counts["TIMED_OUT"] == 2
    assert job["status"] == "CANCELED"


async def test_cancel_that_waits_for_finalization_keeps_timeouts(world: World) -> None:
    await end(world, "expired, one in progress")
    async with connected(world.database.owner_dsn) as finalizing, finalizing.transaction():
        await finalizing.execute(
            "SELECT jobs.finalize_executions($1, 'j', '', 100, 0)", world.tenant
        )
        canceling = await world.blocked(world.operator.cancel("j", reason="no"))
    await canceling

    assert await world.operator.status() == "CANCELED"
    counts = {"succeeded": 1, "failed": 1, "timed_out": 2, "in_progress": 1}
    assert await world.operator.counts() == counts


async def test_finalized_job_is_finalized_again_after_a_forced_cancel(world: World) -> None:
    await end(world, "expired, one in progress")
    await world.sweep()
    await world.operator.cancel("j", reason="no", force=True)

    counts, _ = await check_sweep(world)

    assert counts == {"SUCCEEDED": 1, "FAILED": 1, "TIMED_OUT": 2, "REJECTED": 1}


@pytest.mark.slow
async def test_retried_job_is_finalized_again_when_it_expires(world: World) -> None:
    await end(world, "expired")
    await world.sweep()
    await world.operator.retry("j", "TIMED_OUT", expires_in_hours=1)
    await world.expire()

    counts, job = await check_sweep(world)

    assert counts["TIMED_OUT"] == 2
    assert job["status"] == "COMPLETED"
