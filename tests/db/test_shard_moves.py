"""Errors of Citus for calls on a shard that it moves at that time: such calls can be repeated."""

import pytest
from grpc import StatusCode

from tests.support.callers import Operator
from tests.support.database import Database
from tests.support.failures import expect_failure

SHARD_MOVED = {
    "row of a shard": (
        "42501",
        'new row violates row-level security policy for table "job_progress_102032"',
    ),
    "shard is gone": ("XX000", "could not find valid entry for shard 102032"),
}


async def let_cancel_job_run(database: Database, statement: str) -> None:
    """Replace the body of jobs.cancel_job by one statement."""
    await database.owner.execute(
        "CREATE OR REPLACE FUNCTION jobs.cancel_job(p_tenant_id text, p_job_id text,"
        " p_reason text, p_force boolean DEFAULT false) RETURNS void LANGUAGE plpgsql"
        f" AS $$ BEGIN {statement}; END $$"
    )


@pytest.mark.parametrize(("sqlstate", "message"), SHARD_MOVED.values(), ids=SHARD_MOVED)
async def test_call_is_unavailable_when_its_shard_moves(
    database: Database, operator: Operator, sqlstate: str, message: str
) -> None:
    await let_cancel_job_run(
        database, f"RAISE EXCEPTION USING ERRCODE = '{sqlstate}', MESSAGE = '{message}'"
    )

    with expect_failure(StatusCode.UNAVAILABLE, "DATABASE_UNAVAILABLE") as expected:
        await operator.cancel("j")

    assert expected.retry_after is not None


@pytest.mark.single_node("on Citus, the error names a shard, as when it moves")
async def test_call_that_writes_a_row_of_another_tenant_is_internal(
    database: Database, operator: Operator
) -> None:
    await let_cancel_job_run(
        database, "INSERT INTO jobs.jobs (tenant_id, job_id) VALUES ('other', 'j')"
    )

    with expect_failure(StatusCode.INTERNAL, "INTERNAL"):
        await operator.cancel("j")
