"""Lets devices join continuous jobs, as the server's task does."""

from tests.support.postgres import connected
from tests.support.world import World

MAX_TARGETS = 1_000_000


async def join(
    world: World,
    *devices: str,
    job_id: str = "j",
    max_targets: int = MAX_TARGETS,
    wait_ms: int = 10_000,
) -> int | None:
    """Let devices join a job; without devices, all of the tenant. Return how many have joined.

    None: no device can ever join again.
    """
    async with connected(world.database.request_dsn) as connection:
        row = await connection.fetchrow(
            "SELECT * FROM jobs.join_devices($1, $2, $3, '', NULL, $4, $5)",
            world.tenant,
            job_id,
            list(devices) or None,
            max_targets,
            wait_ms,
        )
    assert row is not None
    return None if row["has_ended"] else row["joined_count"]
