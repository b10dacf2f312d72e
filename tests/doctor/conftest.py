"""Fixtures: the doctor of a sound database, and that of one that a test can break."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from fnmatch import fnmatchcase

import asyncpg
import pytest

from jobs_grpc.config import Config
from jobs_grpc.doctor import Finding, examine
from tests.support.database import Database, fresh_database
from tests.support.postgres import PASSWORD, Postgres


@dataclass(frozen=True)
class Doctor:
    """Runs all checks of a database. Keyword arguments are settings of the server."""

    database: Database

    @property
    def owner(self) -> asyncpg.Connection:
        return self.database.owner

    @property
    def role(self) -> str:
        return self.database.role.name

    def config(self, **settings: str) -> Config:
        environ = {
            "JOBS_DATABASE_URL": self.database.request_dsn,
            "JOBS_OWNER_DATABASE_URL": self.database.owner_dsn,
            "JOBS_LISTEN": "127.0.0.1:0",
        }
        return Config.from_env(environ | settings)

    async def findings(self, *checks: str, **settings: str) -> list[Finding]:
        findings = await examine(self.config(**settings))
        for finding in findings:
            # Every problem has a remedy, and nothing shows the password of the request role.
            assert bool(finding.remedy) == (finding.status in ("WARNING", "ERROR")), finding
            assert PASSWORD not in f"{finding}"
        return [finding for finding in findings if finding.check in checks]

    async def expect(
        self, checks: str, status: str, detail: str = "*", remedy: str = "*", **settings: str
    ) -> Finding:
        """Expect one finding of each check, with this status; return the last.

        `checks` are separated by spaces. In `detail` and `remedy`, * stands for any text.
        """
        findings = await self.findings(*checks.split(), **settings)
        assert [finding.check for finding in findings] == checks.split()
        for finding in findings:
            assert finding.status == status, finding
            assert fnmatchcase(finding.detail, detail), finding
            assert fnmatchcase(finding.remedy or "", remedy), finding
        return findings[-1]


@pytest.fixture(scope="module")
async def doctor(cluster: tuple[Postgres, str]) -> AsyncIterator[Doctor]:
    """The doctor of a database that the tests of a module share, and leave as it is."""
    async with fresh_database(cluster) as database:
        yield Doctor(database)


@pytest.fixture
async def fresh(cluster: tuple[Postgres, str]) -> AsyncIterator[Doctor]:
    """The doctor of a new database with a new request role."""
    async with fresh_database(cluster) as database:
        yield Doctor(database)
