"""jobs-grpc create, list, get, and a job from create to cancel."""

import json
from pathlib import Path

import pytest

from tests.support.cli import Shell, spawn
from tests.support.database import Database
from tests.support.server import Server

CREATE = ("create", "--type", "x", "--all")


def _nested(levels: int) -> str:
    return '{"a":' * levels + "1" + "}" * levels


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


async def test_the_time_at_work_can_be_limited(
    shell: Shell, database: Database, tenant: str
) -> None:
    await database.add_devices(tenant, 1)
    create = ("create", "--type", "reboot", "--all", "--job-id", "j")

    created = await shell(*create, "--in-progress-timeout", "90")
    got = await shell("get", "j")
    refused = await shell(*create, "--in-progress-timeout", "0")

    assert created.code == got.code == 0
    assert "timeout   90 min IN_PROGRESS\n" in got.out
    assert refused.code == 2
    assert refused.err.endswith("--in-progress-timeout: must be a whole number from 1 to 10080\n")


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


async def test_a_list_of_nothing_says_so(shell: Shell) -> None:
    listed = await shell("list")
    completed = await shell("list", "--status", "COMPLETED")

    assert (listed.code, len(listed.out.splitlines())) == (0, 1)
    assert listed.err == "there are no jobs\n"
    assert completed.err == "there are no such jobs\n"


async def test_get_can_be_narrowed_to_a_status(
    shell: Shell, database: Database, tenant: str
) -> None:
    await database.add_devices(tenant, 3)
    await shell("create", "--type", "x", "--all", "--job-id", "j")
    await database.set_status(tenant, "j", "d00002", "FAILED")

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
        (["get", "j", "--tenant", "é"], 2, "x-tenant-id must be 1–256 printable ASCII"),
        (["get", "j", "--user", " olivia"], 2, "x-user-id must be 1–256 printable ASCII"),
        (["get", "j", "--user", "\udcff"], 2, "x-user-id must be 1–256 printable ASCII"),
        ([*CREATE, "--params", "[" * 100_000], 2, "--params: is nested too deeply"),
        ([*CREATE, "--params", _nested(500)], 2, "--params: is nested too deeply"),
        ([*CREATE, "--params", _nested(150)], 2, "--params: is nested too deeply"),
        ([*CREATE, "--params", _nested(30)], 2, "INVALID_ARGUMENT: document_params.a"),
        ([*CREATE, "--params", '{"n": 9007199254740993}'], 2, "--params: 9007199254740993 is bey"),
        ([*CREATE, "--params", f'{{"n": -1{"0" * 5000}}}'], 2, "--params: -1000"),
        ([*CREATE, "--params", '{"n": 1e999}'], 2, "--params: 1e999 is too large a number"),
        ([*CREATE, "--params", '{"n": NaN}'], 2, "--params: NaN is not JSON"),
        ([*CREATE, "--params", '{"n": -Infinity}'], 2, "--params: -Infinity is not JSON"),
        ([*CREATE, "--params", '{"n": "\udcff"}'], 2, "--params: "),
        ([*CREATE, "--params", '{"n": "\\ud800"}'], 2, "--params: "),
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


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["list", "--limit", "abc"], "--limit: must be a whole number from 1 to"),
        (["list", "--timeout", "nan"], "--timeout: must be seconds from 0.001 to 86400"),
        (["list", "--timeout", "-1"], "--timeout: must be seconds"),
        (["list", "--timeout", "inf"], "--timeout: must be seconds"),
        (["list", "--timeout", "1e30"], "--timeout: must be seconds"),
        (["list", "--server", ""], "--server: must be HOST:PORT, [IPV6]:PORT or unix:PATH"),
        (["list", "--server", "localhost"], "--server: must be HOST:PORT"),
        (["list", "--server", "\udcff:1"], "--server: must be UTF-8"),
        (["create", "--type", "\udcff", "--all"], "--type: must be UTF-8"),
        (["create", "--type", "x", "--device", "\udcff"], "--device: must be UTF-8"),
        (["create", "--type", "x", "--group", "\udcff"], "--group: must be UTF-8"),
        ([*CREATE, "--job-id", "\udcff"], "--job-id: must be UTF-8"),
        (["get", "\udcff"], "JOB: must be UTF-8"),
        (["cancel", "j", "--reason", "\udcff"], "--reason: must be UTF-8"),
        (
            [*CREATE, "--expires-in-hours", "99999999999"],
            "--expires-in-hours: must be a whole number from 1 to 720",
        ),
    ],
)
async def test_a_wrong_argument_is_told_what_it_must_be(
    shell: Shell, argv: list[str], message: str
) -> None:
    result = await shell(*argv)

    assert result.code == 2
    assert f"error: argument {message}" in result.err.splitlines()[-1]


@pytest.mark.parametrize("error", [KeyError("uid not found"), OSError("no user")])
async def test_an_account_without_a_name_sends_none(
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

    created = await shell(*CREATE, "--job-id", "j")

    assert created.code == 0
    assert "created_by" not in json.loads((await shell("get", "j", "--json")).out)


async def test_a_closed_standard_output_is_told_of(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr("sys.stdout", None)
        result = await shell("list")

    assert (result.code, result.err) == (
        1,
        "jobs-grpc: standard output is closed; send it to /dev/null instead\n",
    )


async def test_what_others_wrote_can_not_steer_the_terminal(
    shell: Shell, database: Database, tenant: str
) -> None:
    device = "d\u202e"  # what follows reads from right to left
    await database.add_devices(tenant, [device])
    params = json.dumps({"k": "\x9b31m\x7f"})
    await shell(
        *("create", "--type", "x\u2028y", "--device", device, "--job-id", "j"),
        *("--params", params, "--user", "olivia"),
    )
    await shell("cancel", "j", "--reason", "\x1b[31moops\nstatus    COMPLETED")

    got = await shell("get", "j")
    listed = await shell("list")
    as_json = await shell("get", "j", "--json")

    for shown in (got.out, listed.out):
        assert all(c.isprintable() or c in "\n\t" for c in shown)
    assert "reason    \\x1b[31moops\\nstatus    COMPLETED\n" in got.out
    assert 'params    {"k": "\\x9b31m\\x7f"}\n' in got.out
    assert "device d\\u202e" in listed.out
    assert len(listed.out.splitlines()) == 2
    assert json.loads(as_json.out)["cancel_reason"] == "\x1b[31moops\nstatus    COMPLETED"
    assert "\x1b" not in as_json.out


async def test_numbers_that_are_not_exact_are_not_shown_as_if_they_were(
    shell: Shell, database: Database, tenant: str
) -> None:
    await database.add_devices(tenant, 1)
    params = json.dumps({"numbers": [2**53, -(2**53), 5, 1e23]})

    await shell(*CREATE, "--job-id", "j", "--params", params)

    shown = '{"numbers": [9007199254740992, -9007199254740992, 5, 1e+23]}'
    assert f"params    {shown}\n" in (await shell("get", "j")).out


async def test_a_locale_that_lacks_a_character_is_no_failure() -> None:
    process = await spawn("create", "--help", PYTHONIOENCODING="ascii")
    out, errors = await process.communicate()

    assert (process.returncode, errors) == (0, b"")
    assert b"1\\u2013720" in out
