"""jobs-grpc create, list, get, cancel."""

import json
from pathlib import Path

import pytest

from tests.cli import Shell
from tests.support import Database, Server


@pytest.fixture
def shell(
    server: Server,
    tenant: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> Shell:
    """A shell whose environment names the server and the tenant."""
    monkeypatch.setenv("JOBS_SERVER", server.address)
    monkeypatch.setenv("JOBS_TENANT", tenant)
    monkeypatch.setenv("JOBS_USER", "olivia")
    return Shell(capsys)


async def test_a_job_from_create_to_cancel(shell: Shell, database: Database, tenant: str) -> None:
    await database.add_devices(tenant, ["a", "b"], group="north")

    created = await shell(
        "create",
        "--type",
        "reboot",
        "--group",
        "north",
        "--job-id",
        "j",
        "--params",
        '{"delay": 5}',
    )
    listed = await shell("list")
    canceled = await shell("cancel", "j", "--reason", "oops")
    got = await shell("get", "j")

    assert created.code == listed.code == canceled.code == got.code == 0
    assert created.out.startswith("created j for 2 devices, expires: 20")
    header, row = (line.split("\t") for line in listed.out.splitlines())
    assert header[:4] == ["JOB", "STATUS", "TYPE", "TARGET"]
    assert row[:4] == ["j", "IN_PROGRESS", "reboot", "group north"]
    assert canceled.out == "canceled j\n"
    facts, table = got.out.split("\n\n")
    assert "status    CANCELED\nreason    oops\n" in facts
    assert 'params    {"delay": 5}\n' in facts
    assert " by olivia\n" in facts
    assert "devices   2: 2 REJECTED" in facts
    assert [line.split("\t")[0] for line in table.splitlines()] == ["DEVICE", "a", "b"]


async def test_json_is_the_answer_of_the_service(
    shell: Shell, database: Database, tenant: str
) -> None:
    await database.add_devices(tenant, 1)
    params = '{"delay": 5, "ratio": 0.5}'
    create = ("create", "--type", "reboot", "--all", "--job-id", "j", "--never-expires")

    created = json.loads((await shell(*create, "--params", params, "--json")).out)
    job = json.loads((await shell("get", "j", "--json")).out)
    jobs = json.loads((await shell("list", "--json")).out)
    canceled = json.loads((await shell("cancel", "j", "--json")).out)

    assert created == {"job_id": "j", "status": "IN_PROGRESS", "execution_count": 1}
    assert job["document_params"] == {"delay": 5, "ratio": 0.5}
    assert isinstance(job["document_params"]["delay"], int)
    assert job["execution_counts"]["queued"] == 1
    assert [execution["device_id"] for execution in job["executions"]] == ["d00001"]
    assert [each["job_id"] for each in jobs["jobs"]] == ["j"]
    assert canceled == {"job_id": "j", "status": "CANCELED"}


async def test_parameters_can_come_from_a_file(
    shell: Shell, database: Database, tenant: str, tmp_path: Path
) -> None:
    await database.add_devices(tenant, 1)
    file = tmp_path / "params.json"
    file.write_text('{"version": "2.1"}')

    await shell("create", "--type", "x", "--all", "--job-id", "j", "--params", f"@{file}")

    job = json.loads((await shell("get", "j", "--json")).out)
    assert job["document_params"] == {"version": "2.1"}


async def test_limits_beyond_a_page_are_read_page_by_page(
    shell: Shell, database: Database, tenant: str
) -> None:
    await database.add_devices(tenant, 5100)
    for number in range(205):
        await shell("create", "--type", "x", "--device", "d00001", "--job-id", f"one-{number}")
    await shell("create", "--type", "x", "--all", "--job-id", "all")

    listed = await shell("list", "--limit", "203")
    got = await shell("get", "all", "--limit", "5050")

    assert len(listed.out.splitlines()) == 1 + 203
    assert listed.err == "there are more than these 203: raise --limit\n"
    assert len(got.out.split("\n\n")[1].splitlines()) == 1 + 5050


async def test_get_can_be_narrowed_to_a_status(
    shell: Shell, database: Database, tenant: str
) -> None:
    await database.add_devices(tenant, 3)
    await shell("create", "--type", "x", "--all", "--job-id", "j")
    await database.move(tenant, "j", "d00002", "FAILED")

    got = await shell("get", "j", "--status", "FAILED", "--json")

    job = json.loads(got.out)
    assert [execution["device_id"] for execution in job["executions"]] == ["d00002"]
    assert job["total_executions"] == 3


@pytest.mark.parametrize(
    ("argv", "code", "message"),
    [
        (["get", "nowhere"], 3, "NOT_FOUND: Job not found"),
        (["create", "--type", "x", "--group", "g"], 4, "FAILED_PRECONDITION: Group has no"),
        (["create", "--type", "x", "--device", "d"], 3, "NOT_FOUND: Device not found"),
        (["create", "--type", "", "--all"], 2, "INVALID_ARGUMENT: document_type must be"),
        (["create", "--type", "x", "--all", "--params", "["], 2, "--params: Expecting value"),
        (["create", "--type", "x", "--all", "--params", "[]"], 2, "--params: must be a JSON"),
        (["create", "--type", "x", "--all", "--params", "@gone"], 2, "can't read gone: No such"),
        (["get", "j", "--tenant", "é"], 2, "x-tenant-id must be printable ASCII"),
        (["list", "--server", "127.0.0.1:1"], 5, "UNAVAILABLE: "),
    ],
)
async def test_failures_are_one_line_and_a_code(
    shell: Shell, argv: list[str], code: int, message: str
) -> None:
    result = await shell(*argv)

    assert (result.code, result.out) == (code, "")
    assert result.err.startswith(f"jobs-grpc: {message}")
    assert result.err.count("\n") == 1


@pytest.mark.parametrize(
    "argv",
    [
        ["create", "--type", "x"],
        ["create", "--type", "x", "--all", "--group", "g"],
        ["list", "--limit", "0"],
        ["list", "--status", "DONE"],
        ["nonsense"],
        [],
    ],
)
async def test_wrong_arguments_are_explained(shell: Shell, argv: list[str]) -> None:
    result = await shell(*argv)

    assert result.code == 2
    assert result.err.startswith("usage: jobs-grpc")
