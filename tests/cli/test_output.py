"""The output of the commands, from creating a job to canceling it."""

import json
import os
from contextlib import suppress

import pytest

from jobs_grpc.cli.program import _parser
from tests.cli.test_help import commands
from tests.support.callers import Operator
from tests.support.cli import Shell, spawn
from tests.support.database import Database
from tests.support.server import Server


async def test_output_escapes_control_characters_of_stored_text(
    shell: Shell, database: Database, tenant: str
) -> None:
    device = "d\u202e"  # U+202E shows the following text from right to left.
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

    for shown in (got.out, listed.out, as_json.out):
        assert all(c.isprintable() or c == "\n" for c in shown)
    assert "cancel reason \\x1b[31moops\\nstatus    COMPLETED\n" in got.out
    assert 'params        {"k": "\\x9b31m\\x7f"}\n' in got.out
    assert "device d\\u202e" in listed.out
    assert len(listed.out.splitlines()) == 2
    assert json.loads(as_json.out)["cancel_reason"] == "\x1b[31moops\nstatus    COMPLETED"
    assert json.loads(as_json.out)["document_params"] == {"k": "\x9b31m\x7f"}


@pytest.mark.slow
async def test_output_escapes_characters_that_locale_lacks() -> None:
    process = await spawn("create", "--help", PYTHONIOENCODING="ascii")
    out, errors = await process.communicate()

    assert (process.returncode, errors) == (0, b"")
    assert b"1\\u2013720" in out


@pytest.mark.slow
async def test_help_fits_terminal_of_80_columns(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    names = ("", "devices", "webhooks", "context", *dict(commands(_parser())))
    pages = {name: (await shell(*name.split(), "--help")).out for name in names}

    assert all(pages.values())
    assert [
        (name, line) for name, page in pages.items() for line in page.splitlines() if len(line) > 80
    ] == []


async def test_command_fails_when_standard_output_is_closed(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr("sys.stdout", None)
        result = await shell("list")

    assert (result.code, result.err) == (
        1,
        "jobs-grpc: standard output is closed; redirect it to /dev/null instead\n",
    )


async def test_command_fails_when_the_output_has_no_space(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = os.fdopen(os.open("/dev/full", os.O_WRONLY), "w")
    with monkeypatch.context() as patched:
        patched.setattr("sys.stdout", full)
        result = await shell("completion", "bash")
    with suppress(OSError):  # It writes what it has buffered.
        full.close()

    assert (result.code, result.err) == (
        1,
        "jobs-grpc: can't write the output: No space left on device\n",
    )


@pytest.mark.slow
async def test_notes_do_not_go_to_standard_output_when_standard_error_is_closed(
    server: Server, operator: Operator, database: Database
) -> None:
    await database.add_devices(operator.tenant, 1)
    for job_id in ("a", "b"):
        await operator.create(job_id=job_id, target_all=True)

    process = await spawn(
        *("list", "-o", "csv", "--limit", "1", "--columns", "job_id"),
        closed="2",
        JOBS_SERVER=server.address,
        JOBS_TENANT=operator.tenant,
    )
    out, _ = await process.communicate()

    assert (process.returncode, out) == (0, b'"job_id"\n"b"\n')
