"""While PostgreSQL's disk is full, writes fail with UNAVAILABLE, and reads succeed."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from fleet.jobs.v1 import jobs_pb2 as pb

from tests.support.database import Database
from tests.support.failures import Failure, expect_error
from tests.support.world import World

pytestmark = pytest.mark.single_node("needs a trigger")


# What PostgreSQL raises when a table can't grow, with the SQLSTATE 53100.
FULL_DISK_TRIGGER = """
    CREATE FUNCTION public.full_disk() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        RAISE disk_full USING
            MESSAGE = 'could not extend file "base/5/16700": No space left on device',
            HINT = 'Check free disk space.';
    END $$;
    CREATE TRIGGER full_disk BEFORE INSERT OR UPDATE ON jobs.job_executions
        FOR EACH ROW EXECUTE FUNCTION public.full_disk();
"""


@asynccontextmanager
async def full_disk(database: Database) -> AsyncIterator[None]:
    """Let all writes of executions fail within the block."""
    await database.owner.execute(FULL_DISK_TRIGGER)
    try:
        yield
    finally:
        await database.owner.execute("DROP FUNCTION public.full_disk CASCADE")


def check_unavailable(failure: Failure) -> None:
    """Assert that the caller learns when to retry, and nothing about the database."""
    assert failure.message == "The database is unavailable; retry later"
    assert failure.retry_after == 1
    assert failure.metadata == {}


async def test_writes_are_unavailable_and_reads_succeed_when_the_disk_is_full(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    await world.add_devices(["pump"])
    device = world.device("pump")
    await world.create("a")
    await device.start("a")

    async with full_disk(world.database):
        failed_create = await expect_error("DATABASE_UNAVAILABLE", world.create("b"))
        failed_report = await expect_error(
            "DATABASE_UNAVAILABLE", device.update("a", pb.JobExecution.SUCCEEDED)
        )
        assert [job.job_id for job in (await world.operator.list()).jobs] == ["a"]
        assert (await device.get("a")).status == pb.JobExecution.IN_PROGRESS

    check_unavailable(failed_create)
    check_unavailable(failed_report)
    [warning] = [r for r in caplog.records if "the database is unavailable" in r.getMessage()]
    assert warning.levelname == "WARNING"
    assert "No space left on device" in warning.getMessage()
    assert not [r for r in caplog.records if r.levelname == "ERROR" or r.exc_info]
    # Nothing of the failed calls was stored, so the same calls succeed now.
    await world.create("b")
    await device.update("a", pb.JobExecution.SUCCEEDED)
    counts = {job.job_id: job.execution_counts for job in (await world.operator.list()).jobs}
    assert (counts["a"].succeeded, counts["b"].queued) == (1, 1)
