"""When a call counts the active jobs of its tenant."""

import asyncio

from jobs_grpc.limits import active_jobs
from jobs_grpc.limits.active_jobs import ActiveJobCounts
from tests.support.clock import Clock

LIMIT = 100


async def create(counts: ActiveJobCounts, tenant: str = "t", *, active: int = 0) -> bool:
    """Create a job while others are `active`, and return whether the call counts them."""
    async with counts.call(tenant) as count:
        if count.max_active_jobs is not None:
            count.active_jobs = active
        return count.max_active_jobs is not None


async def test_count_is_used_for_a_second() -> None:
    clock = Clock()
    counts = ActiveJobCounts(LIMIT, clock)
    assert await create(counts)

    assert not await create(counts)
    clock.now = 100.4
    assert not await create(counts)
    clock.now = 101.0
    assert await create(counts)


async def test_one_call_counts_again_while_others_use_the_last_count() -> None:
    clock = Clock()
    counts = ActiveJobCounts(LIMIT, clock)
    await create(counts)
    clock.now = 100.5

    async with counts.call("t") as count:
        assert count.max_active_jobs == LIMIT
        assert not await create(counts)
        clock.now = 101.0
        assert await create(counts)


async def test_calls_of_this_process_add_to_the_count() -> None:
    counts = ActiveJobCounts(LIMIT, Clock())
    await create(counts, active=79)

    # The first one is the 80th.
    assert [await create(counts, active=90) for _ in range(11)] == [False] * 10 + [True]


async def test_call_near_the_limit_waits_for_calls_that_do_not_count() -> None:
    counts = ActiveJobCounts(LIMIT, Clock())
    await create(counts, active=87)

    async with counts.call("t"):
        async with counts.call("t", always=True) as recount:
            near_limit = asyncio.create_task(create(counts, active=90))
            await asyncio.sleep(0)
            recount.active_jobs = 0
        # Far from the limit now, but with more such calls, the first one might wait forever.
        assert await create(counts)
        assert not near_limit.done()

    assert await near_limit


async def test_count_includes_the_jobs_that_are_created_without_a_count() -> None:
    clock = Clock()
    counts = ActiveJobCounts(LIMIT, clock)
    await create(counts)

    async with counts.call("t"):
        clock.now = 101.0
        await create(counts, active=88)

    assert await create(counts)


async def test_older_count_does_not_replace_a_newer_one() -> None:
    clock = Clock()
    counts = ActiveJobCounts(LIMIT, clock)
    async with counts.call("t") as older:
        clock.now = 100.1
        await create(counts, active=95)
        older.active_jobs = 0

    assert await create(counts)


async def test_only_the_newest_tenants_are_remembered() -> None:
    counts = ActiveJobCounts(LIMIT, Clock())
    await create(counts, "first")
    async with counts.call("first", always=False):
        for number in range(active_jobs.MAX_TENANTS + 1):
            await create(counts, f"t{number}")
        # Not forgotten, because a call is in progress.
        assert not await create(counts, "first")

    assert await create(counts, "t0")
    assert len(counts) == active_jobs.MAX_TENANTS


async def test_calls_never_count_without_a_limit() -> None:
    counts = ActiveJobCounts(None)

    assert not await create(counts)
    assert len(counts) == 0
