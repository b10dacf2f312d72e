"""`jobs-grpc doctor`: its table, its JSON and its exit codes."""

import json
import os
import re

import pytest

from tests.support.cli import Shell, cells, run_on_terminal
from tests.support.database import Database

pytestmark = pytest.mark.slow


@pytest.fixture
def shell(
    database: Database, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Shell:
    for name in [name for name in os.environ if name.startswith("JOBS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("JOBS_DATABASE_URL", database.request_dsn)
    monkeypatch.setenv("JOBS_OWNER_DATABASE_URL", database.owner_dsn)
    monkeypatch.setenv("JOBS_LISTEN", "127.0.0.1:0")
    monkeypatch.setenv("JOBS_MAX_STREAMS", "100")
    return Shell(capsys)


async def test_doctor_prints_a_line_for_each_check_and_exits_with_0_when_all_is_well(
    shell: Shell,
) -> None:
    result = await shell("doctor")

    assert (result.code, result.err) == (0, "")
    header, *lines = result.out.splitlines()
    assert cells(header) == ["CHECK", "STATUS", "FINDING"]
    assert [cells(line)[:2] for line in lines] == [
        [check, "OK"]
        for check in (
            "version",
            "open-files",
            "address",
            "authentication",
            "tls",
            "database",
            "clock",
            "cluster",
            "schema",
            "isolation",
            "privileges",
            "device-tables",
            "connections",
            "pool",
            "dead-rows",
            "slots",
            "webhooks",
            "ids",
            "labels",
            "maintenance",
            "device-counts",
            "counts",
        )
    ]


def _without_measurements(output: str) -> list[str]:
    lines = [line for line in output.splitlines() if not line.startswith("clock ")]
    return [re.sub(r"others have \d+ open", "", line) for line in lines]


async def test_doctor_exits_with_1_for_warnings_only_when_it_is_strict(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("JOBS_OWNER_DATABASE_URL")

    result = await shell("doctor")
    strict = await shell("doctor", "--strict")

    assert (result.code, result.err) == (0, "")
    assert re.search("maintenance +WARNING +JOBS_OWNER_DATABASE_URL is not set", result.out)
    assert "\nTo fix:\n  maintenance: set it on at least one server" in result.out
    # The clock difference, and the connections that others have open, differ between two runs.
    assert (strict.code, _without_measurements(strict.out)) == (
        1,
        _without_measurements(result.out),
    )
    assert strict.err == "jobs-grpc: errors: 0, warnings: 1\n"


async def test_doctor_exits_with_1_for_errors(
    shell: Shell, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JOBS_DATABASE_URL", database.owner_dsn)

    result = await shell("doctor")

    assert result.code == 1
    assert result.err.startswith("jobs-grpc: errors: ")
    assert result.out.partition("\nTo fix:\n")[2].startswith("  isolation: ")


async def test_doctor_prints_json_for_scripts(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("JOBS_OWNER_DATABASE_URL")

    result = await shell("doctor", "--json")

    report = json.loads(result.out)
    assert set(report) == {"version", "findings"}
    maintenance = report["findings"][-1]
    assert set(maintenance) == {"check", "status", "detail", "remedy"}
    assert (maintenance["check"], maintenance["status"]) == ("maintenance", "WARNING")


async def test_doctor_reads_the_settings_and_options_of_serve(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JOBS_LISTEN", "0.0.0.0:0")

    result = await shell("doctor")
    assert (result.code, result.out) == (2, "")
    assert "JOBS_LISTEN=0.0.0.0:0 is not loopback" in result.err

    result = await shell("doctor", "--insecure-metadata", "--workers", "100")
    assert result.code == 1
    assert re.search("authentication +WARNING +JOBS_INSECURE_METADATA is set", result.out)
    assert "this server opens up to 1206 connections" in result.out


async def test_doctor_prints_no_secret(
    shell: Shell, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    password = "pa55-w0rd"
    monkeypatch.setenv("JOBS_DATABASE_URL", f"postgresql://someone:{password}@127.0.0.1:1/jobs")
    monkeypatch.setenv("JOBS_OWNER_DATABASE_URL", f"postgresql://x:{password}@127.0.0.1:1/jobs")

    for options in ([], ["--json"]):
        result = await shell("doctor", *options)
        assert result.code == 1
        assert password not in result.out + result.err


async def test_doctor_fits_its_table_to_the_terminal(database: Database) -> None:
    settings = {"JOBS_DATABASE_URL": database.request_dsn, "JOBS_LISTEN": "127.0.0.1:0"}
    code, shown = await run_on_terminal("doctor", columns=60, **settings)

    assert code == 0
    table, _, remedies = shown.replace("\r\n", "\n").partition("\nTo fix:\n")
    plain = re.sub(r"\x1b\[[0-9;]*m", "", table)
    assert all(len(line) <= 60 for line in plain.splitlines()), plain
    # Remedies are whole lines, so that they can be copied.
    assert remedies.splitlines()[-1].startswith("  maintenance: set it on at least one server")
