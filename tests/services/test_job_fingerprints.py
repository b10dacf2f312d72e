"""The fingerprint of a job changes with everything that its watch would send."""

from typing import Any

import pytest
from fleet.jobs.v1 import jobs_pb2 as pb

from jobs_grpc.db.store import Store
from tests.support.database import request_session
from tests.support.staged_jobs import rollout
from tests.support.world import World

STAGES = rollout(
    {"device_count": 1, "gate": pb.Gate(min_succeeded_percent=50)},
    {"device_count": 1, "gate": pb.Gate(min_succeeded_percent=100)},
    {"remainder": True},
)
CRITERION = pb.FailureCriterion(statuses=[pb.JobExecution.FAILED], count=3)


async def fingerprint(store: Store, tenant: str, job_id: str = "j") -> int:
    """Return the fingerprint of a job."""
    ((_, value),) = await store.changed_job_fingerprints(
        [tenant], job_ids=[job_id], fingerprints=[None]
    )
    return value


async def test_each_change_that_readers_see_changes_the_fingerprint(world: World) -> None:
    await world.add_devices([f"d{n}" for n in range(6)])
    await world.create(in_progress_timeout_minutes=5, rollout=STAGES, failure_criteria=[CRITERION])

    async def start() -> None:
        for n in range(6):
            device = world.device(f"d{n}")
            if await device.start_next():
                started.append(device)
                return
        raise AssertionError("no device has an execution to start")

    async def report(status: str, **fields: Any) -> None:
        await started.pop().update("j", status, **fields)

    started: list[Any] = []
    steps: Any = [
        start,
        lambda: report("SUCCEEDED"),  # opens the next stage
        lambda: world.operator.update(
            "j", "in_progress_timeout_minutes", in_progress_timeout_minutes=7
        ),
        start,
        lambda: world.operator.pause("j", reason="r"),
        lambda: world.operator.resume("j"),
        lambda: report("FAILED", failure_code="E1"),
        lambda: world.operator.advance("j"),
        lambda: world.operator.resume("j"),
        start,
        lambda: world.operator.update(
            "j", "failure_criteria", failure_criteria=[CRITERION, CRITERION]
        ),
        lambda: report("REJECTED"),
        lambda: world.operator.retry("j", "FAILED"),
        lambda: world.operator.cancel_execution("j", "d5"),
        lambda: world.operator.cancel("j", force=True),
    ]
    async with request_session(world.database) as (_, store):

        async def state() -> tuple[int, str]:
            value = await fingerprint(store, world.tenant)
            (job,) = await store.get_jobs(world.tenant, job_ids=["j"])
            return value, repr(job)

        before = await state()
        for number, step in enumerate(steps):
            await step()
            after = await state()
            assert after[1] != before[1], f"step {number} changes nothing"
            assert after[0] != before[0], f"step {number}"
            assert await state() == after
            before = after


async def test_time_alone_changes_the_fingerprint(world: World) -> None:
    """When the rate of a rollout releases an execution, and when the job expires."""
    await world.add_devices(3)
    await world.create(
        expires_in_hours=1, rollout=rollout({"remainder": True, "releases_per_minute": 1})
    )
    async with request_session(world.database) as (_, store):

        async def state() -> tuple[int, str, int]:
            (job,) = await store.get_jobs(world.tenant, job_ids=["j"])
            return await fingerprint(store, world.tenant), job["status"], job["held"]

        created, status, held = await state()
        assert status == "IN_PROGRESS"
        assert held > 0

        await world.pass_time(180)
        released, status, held = await state()
        assert (status, held) == ("IN_PROGRESS", 0)
        assert released != created

        await world.pass_time(3600)
        expired, status, _ = await state()
        assert status == "COMPLETED"
        assert expired != released


async def test_job_that_does_not_exist_has_the_fingerprint_0(world: World) -> None:
    await world.add_devices(1)
    await world.create()
    await world.operator.cancel("j")
    async with request_session(world.database) as (_, store):
        assert await fingerprint(store, world.tenant) != 0
        await world.operator.delete("j")
        assert await fingerprint(store, world.tenant) == 0
        assert await fingerprint(store, "other") == 0


@pytest.mark.single_node("on Citus, a statement reads the rows of one tenant")
async def test_statement_for_many_tenants_compares_the_rows_of_each(world: World) -> None:
    """Tenants have jobs and devices with the same ids."""
    tenants = [world.tenant, f"{world.tenant}-2", "unknown"]
    for tenant in tenants[:2]:
        await world.database.add_devices(tenant, ["pump"])
        await world.server.operator(tenant).create(job_id="j", target_all=True)
        await world.server.operator(tenant).create(job_id=tenant, target_all=True)
    jobs = [(tenant, job_id) for tenant in tenants for job_id in ("j", *tenants)]
    async with request_session(world.database) as (connection, store):
        transaction = connection.transaction()
        await transaction.start()
        found = await store.changed_job_fingerprints(
            [tenant for tenant, _ in jobs],
            job_ids=[job_id for _, job_id in jobs],
            fingerprints=[None] * len(jobs),
        )
        pending = await store.changed_pending_fingerprints(
            tenants, device_ids=["pump"] * 3, limits=[11] * 3, fingerprints=[None] * 3
        )
        # No tenant remains set in the transaction.
        assert await connection.fetchval("SELECT count(*) FROM jobs.jobs") == 0
        alone = [
            await connection.fetchval(
                "SELECT fingerprint FROM jobs.changed_job_fingerprints($1, ARRAY[$2], '{NULL}')",
                *job,
            )
            for job in jobs
        ]
        await transaction.rollback()

    assert found == list(enumerate(alone))
    exist = [job for job, (_, value) in zip(jobs, found, strict=True) if value]
    assert exist == [(tenant, job_id) for tenant in tenants[:2] for job_id in ("j", tenant)]
    assert len({value for _, value in found if value}) == 4
    assert len({value for _, value in pending}) == 3
