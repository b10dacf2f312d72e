"""`jobs-grpc migrate`."""

import pytest

from tests.support.cli import Shell
from tests.support.postgres import Postgres


@pytest.fixture
def shell(capsys: pytest.CaptureFixture[str]) -> Shell:
    """A shell whose environment names no server."""
    return Shell(capsys)


@pytest.mark.slow
async def test_migrate_prints_its_changes(
    cluster: tuple[Postgres, str], shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    running, _ = cluster
    async with running.database() as name:
        monkeypatch.setenv("JOBS_OWNER_DATABASE_URL", running.dsn(name))
        monkeypatch.setenv("JOBS_DATABASE_URL", running.dsn(name, running.role))

        first = await shell("migrate")
        second = await shell("migrate")

    assert first.code == second.code == 0
    assert first.out.startswith("applied migration 0001 jobs\n")
    assert second.out == "the schema is current\n"


async def test_migrate_fails_when_owner_url_is_not_set(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("JOBS_OWNER_DATABASE_URL", raising=False)

    result = await shell("migrate")

    assert result.code == 2
    assert result.err.startswith("jobs-grpc: JOBS_OWNER_DATABASE_URL is not set")


@pytest.mark.slow
async def test_migrate_fails_when_request_url_has_no_user(
    cluster: tuple[Postgres, str], shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    running, template = cluster
    async with running.database(template) as name:
        monkeypatch.setenv("JOBS_OWNER_DATABASE_URL", running.dsn(name))
        monkeypatch.setenv("JOBS_DATABASE_URL", "postgresql:///jobs?host=/run/postgresql")

        without_user = await shell("migrate")
        with_role = await shell("migrate", "--request-role", running.role.name)

    assert without_user.code == 2
    assert without_user.err.startswith("jobs-grpc: JOBS_DATABASE_URL names no user")
    assert (with_role.code, with_role.out) == (0, "the schema is current\n")


async def test_migrate_fails_with_one_line_when_database_is_unreachable(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JOBS_OWNER_DATABASE_URL", "postgresql://u:secret@127.0.0.1:1/db")

    result = await shell("migrate")

    assert result.code == 5
    assert result.err.count("\n") == 1
    assert "secret" not in result.err
