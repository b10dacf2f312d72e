"""Fixtures: a database that a test can break, and the doctor."""

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TypeAlias

import pytest

from jobs_grpc.config import Config
from jobs_grpc.doctor import Finding, examine
from tests.support.database import Database, fresh_database
from tests.support.postgres import Postgres

PASSWORD = "pa55-w0rd"

Doctor: TypeAlias = Callable[..., Awaitable[list[Finding]]]
"""Takes the name of a check, and settings in addition to those of the fixture `fresh`."""


@pytest.fixture
async def fresh(cluster: tuple[Postgres, str]) -> AsyncIterator[Database]:
    """A new migrated database with a new request role."""
    async with fresh_database(cluster, PASSWORD) as database:
        yield database


@pytest.fixture
def doctor(fresh: Database) -> Doctor:
    """Runs all checks and returns the findings of one of them."""

    async def examine_and_select(check: str, **settings: str) -> list[Finding]:
        environ = {
            "JOBS_DATABASE_URL": fresh.request_dsn,
            "JOBS_OWNER_DATABASE_URL": fresh.owner_dsn,
            "JOBS_LISTEN": "127.0.0.1:0",
        }
        findings = await examine(Config.from_env(environ | settings))
        for finding in findings:
            # Every problem has a remedy, and nothing shows the password of the request role.
            assert bool(finding.remedy) == (finding.status in ("WARNING", "ERROR")), finding
            assert PASSWORD not in f"{finding}"
        return [finding for finding in findings if finding.check == check]

    return examine_and_select
