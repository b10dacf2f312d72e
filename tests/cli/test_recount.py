"""`jobs-grpc recount`."""

import getpass
import json
from pathlib import Path

import pytest

from tests.support.callers import Operator
from tests.support.cli import Shell, cells
from tests.support.database import Database, job_lock_held


@pytest.fixture
def shell(shell: Shell, database: Database, monkeypatch: pytest.MonkeyPatch) -> Shell:
    monkeypatch.setenv("JOBS_OWNER_DATABASE_URL", database.owner_dsn)
    return shell


@pytest.fixture(autouse=True)
async def job(database: Database, operator: Operator) -> None:
    await database.add_devices(operator.tenant, 2)
    await operator.create(job_id="j", target_all=True)


@pytest.fixture
async def wrong_count(database: Database, operator: Operator, job: None) -> None:
    await _plant(database, operator.tenant, "job_progress SET queued = 1500")


async def _plant(database: Database, tenant: str, mistake: str) -> None:
    await database.owner.execute(f"UPDATE jobs.{mistake} WHERE tenant_id = $1", tenant)


async def test_recount_succeeds_when_nothing_differs(shell: Shell) -> None:
    recounted = await shell("recount", "j")

    assert (recounted.code, recounted.err) == (0, "")
    assert recounted.out == "the counts of job j are correct\n"
    assert shell.audit_log == []


@pytest.mark.wrong_counts("plants a mistake")
@pytest.mark.usefixtures("wrong_count")
async def test_recount_shows_what_differs(shell: Shell) -> None:
    recounted = await shell("recount", "j")
    as_json = await shell("recount", "j", "--json")

    assert recounted.code == as_json.code == 1
    assert [cells(line) for line in recounted.out.splitlines()] == [
        ["TABLE", "KEY", "COLUMN", "STORED", "COUNTED"],
        ["job_progress", "-", "queued", "1,500", "2"],
    ]
    assert recounted.err == (
        "jobs-grpc: wrong: 1 count of job j; add --repair to correct the counts\n"
    )
    assert json.loads(as_json.out) == {
        "counts": [
            {
                "table_name": "job_progress",
                "key": {},
                "column_name": "queued",
                "stored": 1500,
                "counted": 2,
            }
        ]
    }


@pytest.mark.usefixtures("wrong_count")
async def test_repair_sets_the_counts_and_writes_a_line_of_the_audit_log(
    shell: Shell, tenant: str
) -> None:
    repaired = await shell("recount", "j", "--repair")

    assert (repaired.code, repaired.err) == (0, "")
    assert cells(repaired.out.splitlines()[1])[2:] == ["queued", "1,500", "2"]
    [audited] = shell.audit_log
    assert (audited["message"], audited["code"]) == ("audit recount --repair", "OK")
    assert (audited["tenant"], audited["job_id"]) == (tenant, "j")
    assert (audited["subject"], audited["change_count"]) == (getpass.getuser(), 1)
    assert audited["changes"] == ["job_progress.queued is 1,500, counted 2"]
    assert (await shell("recount", "j")).code == 0


@pytest.mark.wrong_counts("plants a mistake that is not a count")
async def test_repair_fails_when_something_still_differs(
    shell: Shell, database: Database, tenant: str
) -> None:
    await _plant(
        database,
        tenant,
        "job_executions SET failed_at = now(), failed_status = 'FAILED', failed_code = '',"
        " status = 'SUCCEEDED'",
    )

    repaired = await shell("recount", "j", "--repair")

    assert repaired.code == 1
    assert repaired.err == (
        "jobs-grpc: not repaired: 1 count of job j: job_executions.wrong is 0, counted 2\n"
    )
    assert shell.audit_log[0]["change_count"] == len(repaired.out.splitlines()) - 2


@pytest.mark.wrong_counts("plants a mistake")
@pytest.mark.usefixtures("wrong_count")
async def test_repair_gives_up_when_the_job_stays_locked(
    shell: Shell, database: Database, tenant: str
) -> None:
    async with job_lock_held(database, tenant, "j"):
        repaired = await shell("recount", "j", "--repair")

    assert repaired.code == 5
    assert repaired.err == "jobs-grpc: another session holds a required lock; retry\n"


async def test_recount_needs_the_owner(
    shell: Shell, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JOBS_OWNER_DATABASE_URL", database.request_dsn)

    failed = await shell("recount", "j")

    assert failed.code == 1
    assert "use the owner of the tables" in failed.err


async def test_without_a_database_recount_needs_a_running_dev(
    shell: Shell, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("JOBS_OWNER_DATABASE_URL")
    monkeypatch.setenv("JOBS_DATA_DIR", str(tmp_path))

    recounted = await shell("recount", "j")

    assert recounted.code == 2
    assert recounted.err.startswith(
        "jobs-grpc: JOBS_OWNER_DATABASE_URL is not set, and no `jobs-grpc dev` runs with the data"
    )
