"""`jobs-grpc get`."""

import json

import pytest

from tests.support.cli import Shell
from tests.support.database import Database

CREATE = ("create", "--type", "x", "--all", "--job-id", "j")


@pytest.mark.slow
async def test_get_reads_several_pages_when_limit_exceeds_one_page(
    shell: Shell, database: Database, tenant: str
) -> None:
    await database.add_devices(tenant, 5100)
    await shell(*CREATE)

    got = await shell("get", "j", "--limit", "5050")

    assert len(got.out.split("\n\n")[1].splitlines()) == 1 + 5050
    assert got.err.startswith(
        "5,050 executions shown; raise --limit, or continue with --page-token "
    )


async def test_get_shows_only_executions_with_requested_status(
    shell: Shell, database: Database, tenant: str
) -> None:
    await database.add_devices(tenant, 3)
    await shell(*CREATE)
    await database.set_status(tenant, "j", "d00002", "FAILED")

    got = await shell("get", "j", "--status", "FAILED", "--json")

    job = json.loads(got.out)
    assert [execution["device_id"] for execution in job["executions"]] == ["d00002"]
    assert job["total_executions"] == 3


async def test_get_shows_integers_only_when_they_are_exact(
    shell: Shell, database: Database, tenant: str
) -> None:
    await database.add_devices(tenant, 1)
    params = json.dumps({"numbers": [2**53, -(2**53), 5, 1e23]})

    await shell(*CREATE, "--params", params)

    shown = '{"numbers": [9007199254740992, -9007199254740992, 5, 1e+23]}'
    assert f"params        {shown}\n" in (await shell("get", "j")).out
