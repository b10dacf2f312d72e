"""`jobs-grpc list`."""

import pytest

from tests.support.cli import Shell
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
