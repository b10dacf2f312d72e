"""The stored events of a job."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from fleet.jobs.v1 import jobs_pb2 as pb

from tests.support.callers import Operator
from tests.support.database import Database

COUNTS = ("queued", "held", "in_progress", "succeeded", "failed", "timed_out", "rejected")

ATTEMPT_DEFAULTS = {"failure_code": "", "will_retry": False}
"""Fields of an attempt in executions.finished that are stored only with another value."""

# Those with a position, then those in the queue.
_EVENTS = """
    SELECT e.type, e.occurred_at, e.status, e.counts, e.user_id, e.details
    FROM (
        SELECT e.position, 0 AS number, e.type, e.occurred_at, e.status, e.counts, e.user_id,
               e.details
        FROM jobs.events e WHERE e.tenant_id = $1 AND e.job_id = $2
        UNION ALL
        SELECT NULL, q.number, q.type, q.occurred_at, q.status, to_json(q.counts), q.user_id,
               q.details
        FROM jobs.event_queue q WHERE q.tenant_id = $1 AND q.job_id = $2
    ) e
    ORDER BY e.position NULLS LAST, e.number
"""


@dataclass(frozen=True)
class Event:
    """An event as it is stored. The last two have only the fields that are set."""

    type: str
    time: datetime
    status: str
    user: str | None
    counts: Mapping[str, int]
    details: Mapping[str, Any]

    def equals_job(self, job: pb.Job) -> bool:
        """Whether the event has the status and the counts of the job."""
        return (self.status, pb.ExecutionCounts(**self.counts)) == (
            pb.Job.Status.Name(job.status),
            job.execution_counts,
        )


async def stored_events(database: Database, tenant: str, job_id: str = "j") -> list[Event]:
    """Return the events of a job, the first one first."""
    return [
        Event(
            row["type"],
            row["occurred_at"],
            row["status"],
            row["user_id"],
            {
                name: count
                for name, count in zip(COUNTS, json.loads(row["counts"]), strict=True)
                if count
            },
            json.loads(row["details"] or "{}"),
        )
        for row in await database.owner.fetch(_EVENTS, tenant, job_id)
    ]


@dataclass
class EventLog:
    """Reads the new events of a job."""

    database: Database
    operator: Operator
    job_id: str = "j"
    read: int = 0

    async def new(self) -> list[Event]:
        """Return the events since the last call. Fail if the last one differs from the job."""
        events = await stored_events(self.database, self.operator.tenant, self.job_id)
        new, self.read = events[self.read :], len(events)
        if new and new[-1].type != "job.deleted":
            assert new[-1].equals_job(await self.operator.get(self.job_id, executions_limit=1))
        return new

    async def skip(self) -> None:
        """Skip the events that are stored, also if the job has changed since the last one."""
        self.read = len(await stored_events(self.database, self.operator.tenant, self.job_id))

    async def one(self) -> Event:
        (event,) = await self.new()
        return event

    async def types(self) -> list[str]:
        return [event.type for event in await self.new()]
