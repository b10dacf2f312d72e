"""`jobs-grpc migrate`."""

import asyncio
import getpass
import json
import shutil
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

import jobs_grpc
from jobs_grpc.db import migrate as runner
from tests.support.cli import Shell, run_on_terminal, spawn
from tests.support.database import Database, new_database
from tests.support.postgres import Postgres, connected
from tests.support.waiting import TIMEOUT


@pytest.fixture
def shell(capsys: pytest.CaptureFixture[str]) -> Shell:
    """A shell whose environment names no server."""
    return Shell(capsys)


@pytest.fixture
async def empty(
    cluster: tuple[Postgres, str], monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Database]:
    """An empty database, which the environment names. It has no extension."""
    async with new_database(cluster[0], "template1") as database:
        monkeypatch.setenv("JOBS_OWNER_DATABASE_URL", database.owner_dsn)
        monkeypatch.setenv("JOBS_DATABASE_URL", database.request_dsn)
        yield database


@pytest.mark.slow
async def test_migrate_prints_its_changes(
    cluster: tuple[Postgres, str], shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with new_database(cluster[0]) as empty:
        monkeypatch.setenv("JOBS_OWNER_DATABASE_URL", empty.owner_dsn)
        monkeypatch.setenv("JOBS_DATABASE_URL", empty.request_dsn)

        first = await shell("migrate")
        [audited] = shell.audit_log
        second = await shell("migrate")
        [audited_again] = shell.audit_log

    assert first.code == second.code == 0
    assert first.out.startswith(
        "the device tables are the service's own\napplied migration 0001 schema\n"
    )
    assert second.out == "the schema is current\n"
    assert audited["message"] == "audit migrate"
    assert (audited["logger"], audited["code"]) == ("jobs_grpc.audit", "OK")
    assert audited["subject"] == getpass.getuser()
    assert audited["database"].rpartition("/")[2] == empty.name
    assert audited["change_count"] == first.out.count("\n")
    assert "applied migration 0001 schema" in audited["changes"]
    assert (audited_again["code"], audited_again["change_count"]) == ("OK", 0)


async def test_migrate_audits_the_changes_before_an_error(empty: Database, shell: Shell) -> None:
    await empty.owner.execute("CREATE SCHEMA jobs; CREATE TABLE jobs.device_counts ()")

    result = await shell("migrate")

    assert result.code == 1
    [audited] = shell.audit_log
    assert (audited["code"], audited["reason"]) == ("FAILED", "DuplicateTableError")
    assert audited["changes"] == ["the device tables are the service's own"]


@pytest.mark.usefixtures("empty")
async def test_migrate_fails_without_citus_when_it_is_required(shell: Shell) -> None:
    result = await shell("migrate", "--require-citus")

    assert (result.code, result.out) == (1, "")
    [audited] = shell.audit_log
    assert (audited["code"], audited["reason"]) == ("FAILED", "MigrationError")
    assert result.err.startswith("jobs-grpc: the database has no extension citus: run CREATE")
    assert result.err.count("\n") == 1


@pytest.mark.slow
async def test_migrate_fails_when_request_url_has_no_user(
    database: Database, shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JOBS_OWNER_DATABASE_URL", database.owner_dsn)
    monkeypatch.setenv("JOBS_DATABASE_URL", "postgresql:///jobs?host=/run/postgresql")

    without_user = await shell("migrate")
    with_role = await shell("migrate", "--request-role", database.role.name)

    assert without_user.code == 2
    assert without_user.err.startswith("jobs-grpc: JOBS_DATABASE_URL names no user")
    assert (with_role.code, with_role.out) == (0, "the schema is current\n")


@asynccontextmanager
async def _other_session_migrates(database: Database) -> AsyncIterator[None]:
    """Hold the lock of another `migrate`."""
    async with connected(database.owner_dsn) as other:
        await other.execute(f"SELECT pg_advisory_lock({runner._ADVISORY_LOCK})")
        yield


async def _wait_until_migrate_waits(database: Database) -> None:
    # Idle: the statement has returned that another session has the lock.
    await database.wait_for_session("query LIKE '%pg_try_advisory_lock%' AND state = 'idle'")


@pytest.mark.slow
async def test_migrate_shows_on_a_terminal_what_it_waits_for(database: Database) -> None:
    async with _other_session_migrates(database):
        migrating = asyncio.ensure_future(
            run_on_terminal(
                "migrate",
                JOBS_OWNER_DATABASE_URL=database.owner_dsn,
                JOBS_DATABASE_URL=database.request_dsn,
            )
        )
        await _wait_until_migrate_waits(database)

    code, shown = await migrating
    assert code == 0
    lines = shown.split("\r\x1b[K")  # Each line replaces the previous one.
    assert set(lines[:-1]) == {"", "waiting for another session that migrates"}
    assert lines[-1].endswith("}\r\nthe schema is current\r\n")


@pytest.mark.slow
@pytest.mark.parametrize("signal_number", [signal.SIGINT, signal.SIGTERM])
async def test_migrate_exits_when_signaled(database: Database, signal_number: int) -> None:
    async with _other_session_migrates(database):
        process = await spawn("migrate", JOBS_OWNER_DATABASE_URL=database.owner_dsn)
        await _wait_until_migrate_waits(database)
        process.send_signal(signal_number)

        output, errors = await asyncio.wait_for(process.communicate(), TIMEOUT)

    assert (process.returncode, output) == (130, b"")
    assert json.loads(errors)["code"] == "CANCELLED"


@pytest.mark.slow
async def test_migrate_ends_its_index_build_in_the_server_when_signaled(
    cluster: tuple[Postgres, str], tmp_path: Path
) -> None:
    code = Path(jobs_grpc.__file__).parent
    shutil.copytree(code, tmp_path / "jobs_grpc")
    (tmp_path / "jobs_grpc/db/sql/migrations/9001_test.sql").write_text(
        "-- outside a transaction\n"
        "CREATE INDEX CONCURRENTLY IF NOT EXISTS test_index ON jobs.job_executions (rank);"
    )
    async with new_database(*cluster) as database:
        variables = {
            "PYTHONSAFEPATH": "1",
            "PYTHONPATH": f"{tmp_path}:{code.parent}/generated",
            "JOBS_OWNER_DATABASE_URL": database.owner_dsn,
            "JOBS_DATABASE_URL": database.request_dsn,
        }
        async with connected(database.owner_dsn) as writer, writer.transaction():
            # The build waits for the end of this transaction.
            await writer.execute("LOCK TABLE jobs.job_executions IN ROW EXCLUSIVE MODE")
            interrupted = await spawn("migrate", stdin=None, **variables)
            await database.wait_for_blocked_sessions(1)
            interrupted.terminate()
            result = await asyncio.wait_for(interrupted.communicate(), TIMEOUT)

            assert (interrupted.returncode, result[0]) == (130, b"")
            await database.wait_for_blocked_sessions(0)
        repeated = await spawn("migrate", stdin=None, **variables)
        output, _ = await asyncio.wait_for(repeated.communicate(), TIMEOUT)

    assert repeated.returncode == 0
    assert output.startswith(b"applied migration 9001 test\n")
