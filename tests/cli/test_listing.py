"""The formats and columns of the commands that list something."""

import csv
import io
import json
import re

import pytest

from tests.support.callers import Operator
from tests.support.cli import Shell, cells
from tests.support.database import Database
from tests.support.server import Server


@pytest.fixture(autouse=True)
async def big_job(database: Database, server: Server, operator: Operator) -> None:
    """A job "j" of 1,200 devices, of which d00001 has failed, and d00002 twice."""
    await database.add_devices(operator.tenant, 1200)
    await operator.create(job_id="j", target_all=True)
    for number in (1, 2):
        device = server.device(operator.tenant, f"d{number:05}")
        await device.update("j", "FAILED", failure_code="E1", status_details={"at": 5})
    await operator.retry("j", "FAILED", device_ids=["d00002"])
    await server.device(operator.tenant, "d00002").update("j", "FAILED", failure_code="E2")


async def test_table_has_thousands_separators_and_relative_times(shell: Shell) -> None:
    listed = await shell("list")
    utc = await shell("list", "--utc")

    header, row = (cells(line) for line in listed.out.splitlines())
    values = dict(zip(header, row, strict=True))
    assert values["DEVICES"] == "1,200"
    assert re.fullmatch(r"now|\d+s ago", values["CREATED"])
    assert re.fullmatch(r"20\d\d-\d\d-\d\d \d\d:\d\d:\d\dZ", cells(utc.out.splitlines()[1])[-1])


async def test_csv_has_all_fields_in_full(shell: Shell) -> None:
    listed = await shell("get", "j", "-o", "csv", "--status", "FAILED")

    first, second = csv.DictReader(io.StringIO(listed.out))
    assert (first["device_id"], first["failure_code"]) == ("d00001", "E1")
    assert json.loads(first["status_details"]) == {"at": 5}
    assert re.fullmatch(r"20\S+T\S+Z", first["last_updated_at"])
    assert (second["execution_number"], second["times_out_at"]) == ("2", "")


async def test_json_has_the_token_of_the_next_page(shell: Shell, operator: Operator) -> None:
    await operator.create(job_id="k", target_all=True)

    page = json.loads((await shell("list", "--limit", "1", "--json")).out)
    rest = await shell("list", "--page-token", page["next_page_token"], "--json")

    assert [job["job_id"] for job in page["jobs"]] == ["k"]
    assert [job["job_id"] for job in json.loads(rest.out)["jobs"]] == ["j"]


@pytest.mark.parametrize(
    ("filters", "ids"),
    [
        ([], ["k", "j"]),
        (["--target-all"], ["j"]),
        (["--created-from", "1h"], ["k", "j"]),
        (["--created-until", "1h"], []),
        (["--created-from", "2030-01-31T12:00:00Z"], []),
        (["--awaiting-approval"], []),
    ],
    ids=" ".join,
)
async def test_list_shows_only_jobs_that_match_the_filters(
    shell: Shell, operator: Operator, filters: list[str], ids: list[str]
) -> None:
    await operator.create(job_id="k", target_device_id="d00001", document_type="update")
    await operator.cancel("k")

    listed = await shell("list", "-o", "csv", "--columns", "job", *filters)

    assert (listed.code, listed.unquoted.split()[1:]) == (0, ids)
