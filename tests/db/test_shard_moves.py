"""Errors of Citus for calls on a shard that it moves at that time: such calls can be repeated."""

import pytest
from grpc import StatusCode

from tests.support.callers import Operator
from tests.support.database import Database
from tests.support.failures import expect_failure

FAILURES = {
    # A real violation: the rest of the call runs without its tenant.
    "row of another tenant": "INSERT INTO jobs.jobs (tenant_id, job_id) VALUES ('other', 'j')",
    "shard is gone": "RAISE EXCEPTION USING ERRCODE = 'XX000',"
    " MESSAGE = 'could not find valid entry for shard 102032'",
}


@pytest.mark.parametrize("failure", FAILURES.values(), ids=FAILURES)
async def test_call_is_unavailable_when_its_shard_moves(
    database: Database, operator: Operator, failure: str
) -> None:
    await database.owner.execute(
        "CREATE OR REPLACE FUNCTION jobs.cancel_job(p_tenant_id text, p_job_id text,"
        " p_reason text, p_force boolean DEFAULT false) RETURNS void LANGUAGE plpgsql"
        f" AS $$ BEGIN {failure}; END $$"
    )

    with expect_failure(StatusCode.UNAVAILABLE, "DATABASE_UNAVAILABLE") as expected:
        await operator.cancel("j")

    assert expected.retry_after is not None
