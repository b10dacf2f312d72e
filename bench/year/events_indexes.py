"""Insert and purge events as the year does, for ten years, without a server.

Run by `python -m bench.year.events_indexes`. It shows whether the indexes of `events` level off. In
each tenant, five kinds of jobs have events each month, as many as in the year on average, and
random numbers of them on a day. They are purged 26 to 31 days later, and a vacuum runs on a random
quarter of the days.
"""

import asyncio
import random

from bench.environment import environment
from bench.year.environment import SETTINGS
from bench.year.samples import events_indexes

_DAYS = 28
_MONTHS = 120
_INSERT = """
    INSERT INTO jobs.events (tenant_id, position, job_id, type, occurred_at, status, counts)
    SELECT 'tenant-' || tenant, ($1 * 100 + kind.first + event) * 10, kind.job_id, 'job.updated',
           '2026-01-01'::timestamptz + make_interval(days => $1), 'ACTIVE', '[0,0,0,0,0,0,0]'
    FROM generate_series(100, 149) AS tenant,
         unnest($2::text[], $3::integer[], $4::integer[]) AS kind (job_id, first, mean),
         LATERAL generate_series(1, round(2 * kind.mean * random())::integer) AS event
"""
_PURGE = """
    DELETE FROM jobs.events
    WHERE occurred_at < '2026-01-01'::timestamptz
        + make_interval(days => $1 - 26 - abs(hashtext(tenant_id || job_id) % 6))
"""


def _jobs(month: int, day: int) -> list[tuple[str, int, int]]:
    """Return the jobs that have events on a day: (ID, first position, mean number of events)."""
    name = f"{month // 12:02}{month % 12 + 1:02}"
    jobs = [(f"config-{name}{day:02}", 0, 5)]
    if day in (4, 13, 22):
        jobs.append((f"emergency-{name}{day:02}", 20, 4))
    if 4 <= day < 8:
        jobs.append((f"firmware-{name}", 40, 4))
    if 4 <= day < 9:
        jobs.append((f"verification-{name}", 60, 5))
    if day < 8:
        jobs.append((f"enrollment-{name}", 80, 2))
    return jobs


async def _main() -> None:
    days = random.Random(1)  # noqa: S311 - not for secrets
    async with environment(SETTINGS) as env:
        for month in range(_MONTHS):
            for day in range(1, _DAYS + 1):
                passed = month * _DAYS + day
                await env.owner.execute(_INSERT, passed, *zip(*_jobs(month, day), strict=True))
                await env.owner.execute(_PURGE, passed)
                if days.random() < 0.25:
                    await env.owner.execute("VACUUM jobs.events")
            if month < 12 or month % 12 == 11:
                print(f"month {month + 1}: {await events_indexes(env.owner)}", flush=True)


if __name__ == "__main__":
    asyncio.run(_main())
