"""jobs.now() and jobs.clock_time(), from which all SQL takes the time. Tests can replace them."""

from datetime import timedelta

from fleet.jobs.v1 import jobs_pb2 as pb

from tests.support.callers import Operator
from tests.support.database import Database


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
