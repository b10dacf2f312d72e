"""The schema of a database as text."""

import asyncio
import re

from tests.support.postgres import pg_program

# pg_dump starts each object with a comment that names its type.
_OBJECT = re.compile(r"^-- Name: .*; Type: ([A-Z ]+); Schema: .*$", re.MULTILINE)

# Comments and session settings of pg_dump, and stamps that some minor versions give to columns.
_NOISE = re.compile(
    r"(--|SET |SELECT pg_catalog\.set_config|\\restrict|\\unrestrict).*|.* SET \(pg_attver=\d+\);"
)


async def dump_schema(dsn: str, *options: str) -> str:
    """Return the SQL that creates all objects except functions."""
    process = await asyncio.create_subprocess_exec(
        *(pg_program("pg_dump"), "--schema-only", "--no-owner", "--no-privileges", *options, dsn),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    dump, problem = await process.communicate()
    assert process.returncode == 0, problem.decode()
    return _normalize(dump.decode())


def _normalize(dump: str) -> str:
    """Remove functions, comments and session settings."""
    _, *rest = _OBJECT.split(dump)
    objects = zip(rest[::2], rest[1::2], strict=True)
    kept = "".join(sql for kind, sql in objects if kind != "FUNCTION")
    lines = (line.rstrip() for line in kept.splitlines() if not _NOISE.fullmatch(line))
    return re.sub(r"\n{2,}", "\n\n", "\n".join(lines)).strip() + "\n"
