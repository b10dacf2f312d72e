"""IDs with a segment "." or "..": new ones are refused, and what exists stays reachable."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs_grpc.contract.dot_segments import has_dot_segment
from tests.support.database import Database
from tests.support.failures import expect_error
from tests.support.scale import examples
from tests.support.world import World


@pytest.mark.parametrize("job_id", [".", ".."])
async def test_job_is_not_created_when_its_id_is_a_dot_segment(world: World, job_id: str) -> None:
    failure = await expect_error("INVALID_FIELD", world.create(job_id))

    assert failure.violations == {"job_id": "job_id must not be . or .."}


async def test_job_and_device_that_exist_stay_reachable(world: World) -> None:
    tenant, device = world.tenant, world.device("..")
    await world.add_devices(["..", "a/../b"])
    await world.create("old")
    for table in ("jobs", "job_progress", "job_executions"):
        await world.database.owner.execute(
            f"UPDATE jobs.{table} SET job_id = '..' WHERE tenant_id = $1", tenant
        )

    assert (await world.operator.get("..")).total_executions == 2
    await device.start("..")
    await device.update("..", "SUCCEEDED")
    await world.operator.cancel("..")
    assert (await world.fleet.get("a/../b")).device.device_id == "a/../b"
    await world.operator.delete("..")
    await expect_error("JOB_NOT_FOUND", world.operator.get(".."))


@examples(25)
@given(device_id=st.text("./\\a\n%"))
async def test_rule_is_the_same_in_sql(database: Database, device_id: str) -> None:
    sql = "SELECT jobs.has_dot_segment($1)"

    assert await database.owner.fetchval(sql, device_id) == bool(has_dot_segment(device_id))
