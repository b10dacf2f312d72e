"""Adopts a database whose migrations were recorded under earlier numbers.

0001 to 0015 are now 0001, and 0016 and 0017 are 0002 and 0003. The earlier table of migrations
stays as it is, so that servers of the earlier version remain ready.
"""

import asyncpg

from jobs_grpc.db.schema import migrations

# What the earlier version recorded. It had compared the migrations before these with its own.
_EARLIER = (
    (15, "bb986408695cbdfacfd0216fa93f7a12323eeddd6698c0993eb0cd3ac10e7575"),
    (16, "332436f88a3b34ef966ddbd0c819c7b42822cb116001f4081eece52154875d41"),
    (17, "7f6e8078380be9cb6b052dbb969c27c97fe6ec017ddc4675393bc395b9d0cfcc"),
)

_HAS_EARLIER_NUMBERS = (
    "SELECT to_regclass('jobs.schema_migrations') IS NOT NULL"
    " AND NOT EXISTS (SELECT FROM jobs.migrations)"
)


class AdoptionError(Exception):
    """The database is at another migration. The message names it, and says what to do."""


async def adopt(connection: asyncpg.Connection) -> list[str]:
    """Record the migrations that were applied under earlier numbers. Return one line per change.

    Raises AdoptionError if the database is not at the earlier 0015, 0016 or 0017.
    """
    if not await connection.fetchval(_HAS_EARLIER_NUMBERS):
        return []
    applied = await connection.fetch(
        "SELECT version, name, checksum FROM jobs.schema_migrations ORDER BY version"
    )
    if not applied:
        return []
    last = applied[-1]
    label = f"{last['version']:04} {last['name']}"
    known = tuple((row["version"], row["checksum"]) for row in applied if row["version"] >= 15)
    count = len(known)
    if not known or known != _EARLIER[:count]:
        raise AdoptionError(
            f"the database is at migration {label} of an earlier version; this version continues"
            " from 0015, 0016 or 0017: run `jobs-grpc migrate` of commit f50e52f first"
        )
    async with connection.transaction():
        # The earlier migration did not check the rows that existed.
        await connection.execute("ALTER TABLE jobs.jobs VALIDATE CONSTRAINT jobs_pause_check")
        await connection.executemany(
            "INSERT INTO jobs.migrations (version, name, checksum) VALUES ($1, $2, $3)",
            [(m.version, m.name, m.checksum) for m in migrations()[:count]],
        )
    return [f"adopted migration {label} as {migrations()[count - 1].label}"]
