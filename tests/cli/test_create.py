"""`jobs-grpc create`."""

import json
from pathlib import Path

import pytest

from tests.support.cli import Shell, without_times
from tests.support.database import Database

CREATE = ("create", "--type", "x", "--all", "--job-id", "j")


async def test_create_prints_device_count_and_expiry(
    shell: Shell, database: Database, tenant: str
) -> None:
    await database.add_devices(tenant, ["a", "b"], group="north")

    created = await shell("create", "--type", "reboot", "--group", "north", "--job-id", "j")

    assert created.code == 0
    assert created.out.startswith("created j for 2 devices, expires: 20")


@pytest.mark.parametrize("option", [(), ("--validate-only",)])
async def test_create_says_that_the_job_exists_when_it_is_repeated(
    shell: Shell, database: Database, tenant: str, option: tuple[str, ...]
) -> None:
    await database.add_devices(tenant, 2)
    await shell(*CREATE)
    await shell("cancel", "j")

    repeated = await shell(*CREATE, *option, "--utc")

    assert repeated.code == 0
    assert without_times(repeated.out) == (
        "j exists already: the same request created it TIME by olivia\nj is CANCELED: 2 REJECTED\n"
    )


async def test_create_sets_in_progress_timeout(
    shell: Shell, database: Database, tenant: str
) -> None:
    await database.add_devices(tenant, 1)

    created = await shell(*CREATE, "--in-progress-timeout", "90")
    got = await shell("get", "j")
    rejected = await shell(*CREATE, "--in-progress-timeout", "0")

    assert created.code == got.code == 0
    assert "timeout       90 min after the start\n" in got.out
    assert rejected.code == 2
    assert rejected.err.endswith("--in-progress-timeout: must be a whole number from 1 to 10080\n")


async def test_create_reads_params_from_file(
    shell: Shell, database: Database, tenant: str, tmp_path: Path
) -> None:
    await database.add_devices(tenant, 1)
    file = tmp_path / "params.json"
    file.write_text('{"version": "2.1"}')

    await shell(*CREATE, "--params", f"@{file}")

    job = json.loads((await shell("get", "j", "--json")).out)
    assert job["document_params"] == {"version": "2.1"}


@pytest.mark.parametrize("error", [KeyError("uid not found"), OSError("no user")])
async def test_create_sends_no_user_when_account_has_no_name(
    shell: Shell,
    database: Database,
    tenant: str,
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
) -> None:
    def fail() -> str:
        raise error

    await database.add_devices(tenant, 1)
    monkeypatch.delenv("JOBS_USER")
    monkeypatch.setattr("getpass.getuser", fail)

    created = await shell(*CREATE)

    assert created.code == 0
    assert "created_by" not in json.loads((await shell("get", "j", "--json")).out)
