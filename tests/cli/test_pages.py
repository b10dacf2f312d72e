"""Pages of `jobs-grpc list` and `get`."""

import json

import pytest

from tests.support.callers import Operator
from tests.support.cli import Shell
from tests.support.database import Database


@pytest.mark.slow
async def test_list_reads_several_pages_when_limit_exceeds_one_page(
    shell: Shell, operator_with_job: Operator
) -> None:
    for _ in range(204):
        await operator_with_job.create(target_all=True)

    listed = await shell("list", "--limit", "203")
    one = await shell("list", "--limit", "1")
    everything = await shell("list", "--all")

    assert len(listed.out.splitlines()) == 1 + 203
    assert listed.err == "the newest 203 jobs; --all shows the rest\n"
    assert one.err == "the newest job; --all shows the rest\n"
    assert (len(everything.out.splitlines()), everything.err) == (1 + 205, "")


@pytest.mark.slow
async def test_get_reads_several_pages_when_limit_exceeds_one_page(
    shell: Shell, database: Database, operator: Operator
) -> None:
    await database.add_devices(operator.tenant, 5100)
    await operator.create(job_id="j", target_all=True)

    got = await shell("get", "j", "--limit", "5050")

    assert len(got.out.split("\n\n")[1].splitlines()) == 1 + 5050
    assert got.err == "the first 5,050 executions; --all shows the rest\n"


async def test_json_has_the_token_of_the_next_page(
    shell: Shell, operator_with_job: Operator
) -> None:
    await operator_with_job.create(job_id="k", target_all=True)

    page = json.loads((await shell("list", "--limit", "1", "--json")).out)
    rest = await shell("list", "--page-token", page["next_page_token"], "--json")

    assert [job["job_id"] for job in page["jobs"]] == ["k"]
    assert [job["job_id"] for job in json.loads(rest.out)["jobs"]] == ["j"]
