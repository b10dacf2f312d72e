"""Calls are repeated if Citus moves their shard."""

import asyncio

import pytest

from tests.support.callers import Operator
from tests.support.database import Database, cancel_job_runs
from tests.support.failures import expect_error
from tests.support.postgres import connected
from tests.support.world import World

SHARD_MOVED = {
    "session without tenant": ("42704", 'unrecognized configuration parameter "app.tenant_id"'),
    "row of a shard": (
        "42501",
        'new row violates row-level security policy for table "job_progress_102032"',
    ),
    "shard is gone": ("XX000", "could not find valid entry for shard 102032"),
}

# Moves the shard of a tenant to another node.
MOVE = """
    SELECT citus_move_shard_placement(
        s.shardid, s.nodename, s.nodeport, n.nodename, n.nodeport, 'block_writes')
    FROM citus_shards s
    JOIN pg_dist_node n ON n.shouldhaveshards AND n.nodeport <> s.nodeport
    WHERE s.shardid = get_shard_id_for_distribution_column('jobs.jobs', $1::text)
    LIMIT 1
"""


@pytest.mark.parametrize(("sqlstate", "message"), SHARD_MOVED.values(), ids=SHARD_MOVED)
async def test_call_is_unavailable_when_its_shard_moves(
    database: Database, operator: Operator, sqlstate: str, message: str
) -> None:
    statement = f"RAISE EXCEPTION USING ERRCODE = '{sqlstate}', MESSAGE = '{message}'"
    async with cancel_job_runs(database, statement):
        expected = await expect_error("DATABASE_UNAVAILABLE", operator.cancel("j"))

    assert expected.retry_after is not None


@pytest.mark.single_node("on Citus, each node has a sequence of its own")
@pytest.mark.parametrize(("sqlstate", "message"), SHARD_MOVED.values(), ids=SHARD_MOVED)
async def test_call_is_repeated_when_its_shard_moves(
    database: Database, operator: Operator, sqlstate: str, message: str
) -> None:
    await database.owner.execute(
        "DROP SEQUENCE IF EXISTS public.calls; CREATE SEQUENCE public.calls;"
        "GRANT USAGE ON public.calls TO PUBLIC"
    )
    statement = (
        "IF nextval('public.calls') = 1 THEN"
        f" RAISE EXCEPTION USING ERRCODE = '{sqlstate}', MESSAGE = '{message}'; END IF"
    )
    async with cancel_job_runs(database, statement):
        await operator.cancel("j")

    assert await database.owner.fetchval("SELECT last_value FROM public.calls") == 2


@pytest.mark.single_node("on Citus, the error names a shard, as when it moves")
async def test_call_that_writes_a_row_of_another_tenant_is_internal(
    database: Database, operator: Operator
) -> None:
    statement = "INSERT INTO jobs.jobs (tenant_id, job_id) VALUES ('other', 'j')"
    async with cancel_job_runs(database, statement):
        await expect_error("INTERNAL", operator.cancel("j"))


@pytest.mark.citus
@pytest.mark.slow
async def test_waiting_calls_succeed_when_their_shard_moves(world: World) -> None:
    """Their statements go to the new node, at first in a session without a tenant."""
    await world.add_devices(["pump"])
    await world.create("first")
    async with connected(world.database.owner_dsn) as mover, mover.transaction():
        await mover.execute(MOVE, world.tenant)
        create = asyncio.create_task(world.create("second"))
        report = asyncio.create_task(world.device("pump").update("first", "SUCCEEDED"))
        await world.database.wait_for_blocked_sessions(2)

    await create
    await report
    assert (await world.operator.get("first")).succeeded_count == 1
    assert (await world.operator.get("second")).total_executions == 1
