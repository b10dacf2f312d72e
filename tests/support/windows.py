"""Jobs with start windows, and the time of the database at a given moment."""

from datetime import UTC, datetime

from tests.support.database import Database


async def set_windows(
    database: Database, tenant: str, job_id: str, windows: list[int], zone: str | None = "UTC"
) -> None:
    """Store the start windows of a job as UpdateJob does. The zone None: that of each execution."""
    await database.owner.execute(
        "UPDATE jobs.jobs SET start_windows = $3, window_time_zone = $4"
        " WHERE tenant_id = $1 AND job_id = $2",
        tenant,
        job_id,
        windows,
        zone,
    )


async def set_time(database: Database, at: datetime) -> None:
    """Move the time of the database. It passes from then on."""
    await database.set_time_offset((at - datetime.now(UTC)).total_seconds())
