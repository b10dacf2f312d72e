"""Adopts a database whose migrations were recorded under earlier numbers.

The earlier migrations 0001 to 0015 are now 0001, and 0016 and 0017 are 0002 and 0003. The earlier
table of migrations is kept, because servers of the earlier version read it.
"""

import asyncpg

from jobs_grpc.db.schema import migrations

# The earlier migrations that adoption checks, with their checksums. The earlier version checked the
# ones before 0015.
_EARLIER = (
    (15, "bb986408695cbdfacfd0216fa93f7a12323eeddd6698c0993eb0cd3ac10e7575"),
    (16, "332436f88a3b34ef966ddbd0c819c7b42822cb116001f4081eece52154875d41"),
    (17, "7f6e8078380be9cb6b052dbb969c27c97fe6ec017ddc4675393bc395b9d0cfcc"),
)

_HAS_EARLIER_NUMBERS = (
    "SELECT to_regclass('jobs.schema_migrations') IS NOT NULL"
    " AND NOT EXISTS (SELECT FROM jobs.migrations)"
)


# The condition of jobs_pause_check.
_UNCHECKED_JOB = (
    "SELECT tenant_id, job_id FROM jobs.jobs"
    " WHERE NOT ((paused_at IS NULL) = (pause_reason IS NULL)"
    " AND (paused_at IS NOT NULL OR paused_by IS NULL)) LIMIT 1"
)


class AdoptionError(Exception):
    """The database can't be adopted. The message names the object, and says what to do."""


async def adopt(connection: asyncpg.Connection) -> list[str]:
    """Record the migrations that were applied under earlier numbers. Return one line per change.

    Raises AdoptionError if the database is not at the earlier 0015, 0016 or 0017, or if a job
    violates the constraint that adoption validates.
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
        await _validate_pauses(connection)
        await connection.executemany(
            "INSERT INTO jobs.migrations (version, name, checksum) VALUES ($1, $2, $3)",
            [(m.version, m.name, m.checksum) for m in migrations()[:count]],
        )
    return [f"adopted migration {label} as {migrations()[count - 1].label}"]


async def _validate_pauses(connection: asyncpg.Connection) -> None:
    """Validate jobs_pause_check, which the earlier migration 0008 added as NOT VALID."""
    if job := await connection.fetchrow(_UNCHECKED_JOB):
        raise AdoptionError(
            f"job {job['job_id']} of tenant {job['tenant_id']} violates the constraint"
            " jobs_pause_check of jobs.jobs: either set paused_at and pause_reason, or set both and"
            " paused_by to NULL; then run `jobs-grpc migrate` again"
        )
    await connection.execute("ALTER TABLE jobs.jobs VALIDATE CONSTRAINT jobs_pause_check")
