"""Maxima that SQL functions take from the contract, or that the contract declares in words."""

import re
from pathlib import Path

from jobs_grpc.db import schema
from jobs_grpc.db.contract_sql import with_contract
from tests.support.database import Database


def test_maximum_is_that_of_the_rule() -> None:
    assert with_contract("/* maximum of CreateJobRequest.expires_in_hours */") == "720"
    assert "v_expires_in_hours,\n            720\n" in schema.code()["fit_expiry"]


_CONTRACT = Path("protos/fleet/jobs/v1/jobs.proto").read_text(encoding="utf-8")


async def test_latest_start_is_that_of_the_comment(database: Database) -> None:
    [days] = re.findall(r"The time at which the job starts, at most (\d+) days from", _CONTRACT)

    latest = await database.owner.fetchval(
        "SELECT extract(epoch FROM jobs.latest_start(now()) - now()) / 86400"
    )

    assert int(latest) == int(days)
