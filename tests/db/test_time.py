"""All SQL takes the time from jobs.now() and jobs.clock_time(), which tests can replace."""

import re
from datetime import timedelta
from importlib.resources import files
from pathlib import Path

from fleet.jobs.v1 import jobs_pb2 as pb

from tests.support.callers import Operator
from tests.support.database import Database

_SQL = Path(str(files("jobs_grpc.db"))) / "sql"
_TIME = re.compile(
    r"(?<!jobs\.)\b(now|timeofday|(clock|statement|transaction)_timestamp)\("
    r"|\b(CURRENT_|LOCAL)(TIME|DATE)",
    re.IGNORECASE,
)

_OWN_TIME = {
    "functions/internal/now.sql",
    "functions/internal/clock_time.sql",
    # The defaults of tables that exist before any function.
    "bootstrap.sql",
    # These examine the clock and the sessions of the server, also without the schema.
    "checks/doctor/clock.sql",
    "checks/doctor/sessions.sql",
}


def test_only_two_functions_read_the_clock() -> None:
    found = {
        str(path.relative_to(_SQL))
        for path in _SQL.rglob("*.sql")
        if _TIME.search(re.sub(r"--.*", "", path.read_text()))
    }

    assert found == _OWN_TIME


async def test_times_are_inlined(database: Database) -> None:
    plan = await database.owner.fetch("EXPLAIN VERBOSE SELECT jobs.now(), jobs.clock_time()")

    output = plan[-1][0]
    assert "now()" in output
    assert "clock_timestamp()" in output
    assert "jobs." not in output


async def test_replaced_functions_move_the_time_of_a_database(
    database: Database, operator: Operator
) -> None:
    await database.add_devices(operator.tenant, 1)
    await operator.create(job_id="j", target_all=True, expires_in_hours=1)

    await database.pass_time(3599)
    assert (await operator.get("j")).status == pb.Job.IN_PROGRESS
    await database.pass_time(1)

    assert (await operator.get("j")).status == pb.Job.COMPLETED
    times = ("jobs.now()", "jobs.clock_time()", "jobs.read_time()")
    for time in times:
        moved = await database.owner.fetchval(f"SELECT {time} - clock_timestamp()")
        assert abs(moved - timedelta(hours=1)) < timedelta(seconds=1)
