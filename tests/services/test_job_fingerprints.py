"""The fingerprint of a job changes with everything that its watch would send."""

import pytest

from jobs_grpc.db.store import Store
from tests.support.database import request_session
from tests.support.joins import join
from tests.support.world import World


async def fingerprint(store: Store, tenant: str, job_id: str = "j") -> int:
    ((_, value),) = await store.changed_job_fingerprints(
        [tenant], job_ids=[job_id], fingerprints=[None]
    )
    return value


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


async def test_brake_that_lets_no_device_join_changes_the_fingerprint(world: World) -> None:
    """Only the row of continuous_jobs changes: the job is paused already."""
    await world.add_devices(["a"])
    await world.create(target_all=True, continuous=True, max_joins_per_hour=1)
    await world.operator.pause("j")
    await world.add_devices(["b"])
    await join(world)
    async with request_session(world.database) as (_, store):
        before = await fingerprint(store, world.tenant)
        await world.add_devices(["c"])
        assert await join(world) == 0
        assert await fingerprint(store, world.tenant) != before
