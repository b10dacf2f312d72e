"""`jobs-grpc failures`, and failure codes in `get` and `retry`."""

import json

import pytest

from tests.support.callers import Operator
from tests.support.cli import Shell, cells
from tests.support.database import Database
from tests.support.server import Server


@pytest.fixture(autouse=True)
async def failed_job(database: Database, server: Server, operator: Operator) -> None:
    """A job "j" of nine devices, of which six failed with E1 and one without a code."""
    await database.add_devices(operator.tenant, 9)
    await operator.create(job_id="j", target_all=True)
    for number in range(1, 8):
        code = "" if number == 7 else "E1"
        device = server.device(operator.tenant, f"d{number:05}")
        await device.update("j", "FAILED", failure_code=code)


async def test_failures_prints_counts_by_status_and_code(shell: Shell) -> None:
    result = await shell("failures", "j")

    assert result.code == 0
    assert result.out.splitlines() == [
        "FAILURES  STATUS  CODE  DEVICES",
        "       6  FAILED  E1    d00001 d00002 d00003 d00004 d00005",
        "       1  FAILED  -     d00007",
    ]
    failures = json.loads((await shell("failures", "j", "--json")).out)["failures"]
    assert [failure["execution_count"] for failure in failures] == [6, 1]


async def test_failures_prints_a_note_when_there_are_none(shell: Shell, operator: Operator) -> None:
    await operator.create(job_id="k", target_all=True)

    assert (await shell("failures", "k")).err == "no failures\n"


async def test_get_shows_only_executions_with_requested_failure_code(shell: Shell) -> None:
    async def codes(*options: str) -> list[list[str]]:
        lines = (await shell("get", "j", *options)).out.split("\n\n")[1].splitlines()
        code = cells(lines[0]).index("CODE")
        return [[cells(line)[n] for n in (0, code)] for line in lines[1:]]

    assert await codes("--failure-code", "") == [["d00007", "-"]]
    assert await codes("--failure-code", "E1", "--limit", "1") == [["d00001", "E1"]]
    assert len(await codes()) == 9


async def test_retry_selects_failure_codes_and_devices(shell: Shell) -> None:
    for options, count in (
        (["--failure-code", "E1", "--device", "d00001", "d00009"], "1 execution"),
        (["--failure-code", "E1", ""], "6 executions"),
    ):
        retried = await shell("retry", "j", "--status", "FAILED", *options)

        assert retried.out.startswith(f"queued {count} of j again")
