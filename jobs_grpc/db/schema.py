"""The SQL that this version is made of, read from its files."""

import hashlib
import re
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

# Tables that hold tenants' rows; each must have row-level security.
TENANT_TABLES = (
    "jobs.jobs",
    "jobs.job_progress",
    "jobs.job_executions",
    "jobs.execution_attempts",
    "public.device_state",
    "public.device_group_members",
)

_MIGRATION = re.compile(r"(\d{4})_(\w+)\.sql")


@dataclass(frozen=True, slots=True)
class Migration:
    """One step forward: applied once, in order, never edited after it has landed."""

    version: int
    name: str
    sql: str

    @property
    def checksum(self) -> str:
        return _checksum(self.sql)


@cache
def read_sql(name: str) -> str:
    """The text of sql/`name`."""
    return files("jobs_grpc.db").joinpath("sql", name).read_text(encoding="utf-8")


@cache
def migrations() -> tuple[Migration, ...]:
    """All migrations, in order."""
    folder = files("jobs_grpc.db").joinpath("sql/migrations")
    found = [
        Migration(int(match[1]), match[2], path.read_text(encoding="utf-8"))
        for path in folder.iterdir()
        if (match := _MIGRATION.fullmatch(path.name))
    ]
    return tuple(sorted(found, key=lambda migration: migration.version))


@cache
def code() -> tuple[str, ...]:
    """The functions and views, in the order in which they build on each other."""
    folder = files("jobs_grpc.db").joinpath("sql/functions")
    names = sorted(path.name for path in folder.iterdir() if path.name.endswith(".sql"))
    return tuple(read_sql(f"functions/{name}") for name in names)


def code_checksum() -> str:
    """Identifies this version's set of functions and views."""
    return _checksum("".join(code()))


def _checksum(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
