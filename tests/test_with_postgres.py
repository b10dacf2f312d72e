"""`make test PG=…` runs a command with another version of PostgreSQL."""

import shutil
import subprocess
import sys

import pytest

from tests.support.processes import skip_without
from tools.with_postgres import VERSIONS

_PROBE = """
import asyncio, asyncpg, os, subprocess
async def main():
    connection = await asyncpg.connect(os.environ["JOBS_TEST_DATABASE_URL"])
    print(await connection.fetchval("SHOW server_version"))
    await connection.close()
asyncio.run(main())
subprocess.run(["pg_dump", "--schema-only", os.environ["JOBS_TEST_DATABASE_URL"]], check=True,
               stdout=subprocess.DEVNULL)
raise SystemExit(3)
"""


def test_every_supported_version_is_listed() -> None:
    assert list(VERSIONS) == ["15", "16", "17", "18"]


@pytest.mark.slow
def test_command_runs_with_requested_version() -> None:
    if not shutil.which("npm"):
        skip_without("npm")
    command = [sys.executable, "-m", "tools.with_postgres", "15", sys.executable, "-c", _PROBE]
    result = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603

    assert (result.returncode, result.stderr) == (3, "")
    assert result.stdout.startswith("15.")
