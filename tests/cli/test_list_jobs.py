"""`jobs-grpc list`."""

import pytest

from tests.support.callers import Operator
from tests.support.cli import Shell, cells
from tests.support.database import Database


@pytest.mark.slow
async def test_list_reads_several_pages_when_limit_exceeds_one_page(
    shell: Shell, database: Database, tenant: str
) -> None:
    await database.add_devices(tenant, 1)
    for number in range(205):
        await shell("create", "--type", "x", "--device", "d00001", "--job-id", f"one-{number}")

    listed = await shell("list", "--limit", "203")
    one = await shell("list", "--limit", "1")
    everything = await shell("list", "--all")

    assert len(listed.out.splitlines()) == 1 + 203
    assert listed.err == "the newest 203 jobs; --all shows the rest\n"
    assert one.err == "the newest job; --all shows the rest\n"
    assert (len(everything.out.splitlines()), everything.err) == (1 + 205, "")


async def test_list_note_has_the_singular_for_one_job(
    shell: Shell, database: Database, operator: Operator
) -> None:
    await database.add_devices(operator.tenant, 1)
    for job_id in ("a", "b"):
        await operator.create(job_id=job_id, target_all=True)

    listed = await shell("list", "--limit", "1")

    assert listed.err == "the newest job; --all shows the rest\n"


async def test_list_prints_note_when_no_jobs_match(shell: Shell) -> None:
    listed = await shell("list")

    assert (listed.code, len(listed.out.splitlines())) == (0, 1)
    assert listed.err == "no jobs\n"


async def test_list_and_get_show_that_a_job_is_scheduled(
    shell: Shell, operator: Operator, database: Database
) -> None:
    await database.add_devices(operator.tenant, 1)
    start_at = await database.owner.fetchval("SELECT jobs.now() + interval '1 hour'")
    await operator.create(job_id="later", target_all=True, start_at=start_at)

    listed = await shell("list", "--status", "SCHEDULED")
    got = await shell("get", "later")

    assert cells(listed.out.splitlines()[1])[:2] == ["later", "SCHEDULED"]
    assert "status        SCHEDULED\n" in got.out
