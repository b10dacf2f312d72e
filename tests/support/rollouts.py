"""Rollouts written straight to the tables, for tests of what readers see."""

from collections.abc import Sequence
from dataclasses import dataclass

import asyncpg

# Ranks in the order of device_id; $3 has the last rank of each stage.
_RANKS = """
    UPDATE jobs.job_executions e
    SET rank = r.rank,
        stage = (SELECT min(n) - 1 FROM unnest($3::integer[]) WITH ORDINALITY s (last_rank, n)
                 WHERE r.rank <= s.last_rank)
    FROM (
        SELECT device_id, row_number() OVER (ORDER BY device_id) AS rank
        FROM jobs.job_executions WHERE tenant_id = $1 AND job_id = $2
    ) r
    WHERE e.tenant_id = $1 AND e.job_id = $2 AND e.device_id = r.device_id
"""
_STAGES = """
    INSERT INTO jobs.job_stages
        (tenant_id, job_id, stage, display_name, device_count, first_rank, last_rank, opened_at,
         active_since, queued)
    SELECT $1, $2, n - 1, '', nullif(size, 0), last_rank - size + 1, last_rank,
           CASE WHEN n = 1 THEN now() END, CASE WHEN n = 1 THEN now() END, size
    FROM unnest($3::integer[], $4::integer[]) WITH ORDINALITY s (last_rank, size, n)
"""
_JOB = """
    UPDATE jobs.jobs
    SET open_stage = 0, release_end = $3, release_base = 0, release_since = now(),
        request = '{"rollout": {"seed": "s"}}'
    WHERE tenant_id = $1 AND job_id = $2
"""


@dataclass(frozen=True)
class StoredRollout:
    """The rollout of a job whose executions are all QUEUED. Ranks are in the order of device_id."""

    owner: asyncpg.Connection
    tenant: str
    job_id: str

    async def add(self, sizes: Sequence[int]) -> None:
        """Store stages of these sizes, which cover all devices. The first is open."""
        last_ranks = [sum(sizes[: number + 1]) for number in range(len(sizes))]
        await self.owner.execute(_RANKS, self.tenant, self.job_id, last_ranks)
        await self.owner.execute(_STAGES, self.tenant, self.job_id, last_ranks, list(sizes))
        await self.owner.execute(_JOB, self.tenant, self.job_id, last_ranks[0])

    async def set_job(self, assignments: str) -> None:
        """Update the columns of jobs.jobs."""
        await self.owner.execute(
            f"UPDATE jobs.jobs SET {assignments} WHERE tenant_id = $1 AND job_id = $2",
            self.tenant,
            self.job_id,
        )
