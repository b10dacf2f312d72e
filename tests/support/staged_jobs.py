"""Jobs with a rollout: their devices by stage, and their stored state."""

from dataclasses import dataclass
from typing import Any

from fleet.jobs.v1 import jobs_pb2 as pb

from tests.support.callers import Device, Operator
from tests.support.database import Database
from tests.support.server import Server

STATUSES = ("queued", "in_progress", "succeeded", "failed", "timed_out", "rejected")


def rollout(*stages: dict[str, Any], **fields: Any) -> pb.Rollout:
    return pb.Rollout(stages=[pb.Stage(**stage) for stage in stages], **fields)


@dataclass(frozen=True)
class StagedJob:
    database: Database
    server: Server
    operator: Operator
    job_id: str
    names: list[list[str]]
    """The devices of each stage, in the order of their release."""

    def device(self, stage: int, number: int = 0) -> Device:
        """A device of a stage, by its place in the order of release."""
        return self.server.device(self.operator.tenant, self.names[stage][number])

    def devices(self, stage: int) -> list[Device]:
        return [self.device(stage, number) for number in range(len(self.names[stage]))]

    async def finish(self, stage: int, status: Any = "SUCCEEDED") -> None:
        for device in self.devices(stage):
            await device.update(self.job_id, status)

    async def get(self) -> pb.Job:
        return await self.operator.get(self.job_id, executions_limit=0)

    async def open_stage(self) -> int:
        stage: int = (await self.row())["open_stage"]
        return stage

    async def row(self) -> Any:
        return await self._owner_row("SELECT * FROM jobs.jobs WHERE tenant_id = $1 AND job_id = $2")

    async def columns(self, *names: str) -> tuple[Any, ...]:
        row = await self.row()
        return tuple(row[name] for name in names)

    async def stage_row(self, stage: int) -> Any:
        return await self._owner_row(
            "SELECT * FROM jobs.job_stages WHERE tenant_id = $1 AND job_id = $2 AND stage = $3",
            stage,
        )

    async def set_gate(self, stage: int, **columns: Any) -> None:
        """Change the gate of a stage, and apply the rules of the job.

        For time gates, which a server without background work rejects.
        """
        assignments = ", ".join(f"{name} = ${n}" for n, name in enumerate(columns, 4))
        key = (self.operator.tenant, self.job_id)
        await self.database.owner.execute(
            f"UPDATE jobs.job_stages SET {assignments}"
            " WHERE tenant_id = $1 AND job_id = $2 AND stage = $3",
            *key,
            stage,
            *columns.values(),
        )
        await self.apply_rules()

    async def pass_time(self, seconds: float) -> None:
        """Move the time of the database forward, and apply the rules of the job."""
        await self.database.pass_time(seconds)
        await self.apply_rules()

    async def apply_rules(self) -> None:
        """Apply the rules of the job, as each change of its counts does."""
        await self.database.owner.execute(
            "SELECT jobs.apply_rollout_rules($1, $2, jobs.clock_time())",
            self.operator.tenant,
            self.job_id,
        )

    async def check_counts(self) -> None:
        """Fail if the counts of the tenant's jobs differ from a recount of their executions."""
        assert await self.database.recount(self.operator.tenant) == []

    async def _owner_row(self, sql: str, *args: object) -> Any:
        return await self.database.owner.fetchrow(sql, self.operator.tenant, self.job_id, *args)


async def create_staged_job(
    database: Database, server: Server, operator: Operator, *stages: dict[str, Any], **fields: Any
) -> StagedJob:
    """Create the job "j" for all devices of the tenant, with these stages.

    `fields` are of the request; `max_in_progress` is of the rollout. The devices must exist.
    """
    limits = {"max_in_progress": fields.pop("max_in_progress", None)}
    job_id: str = fields.pop("job_id", "j")
    await operator.create(
        job_id=job_id, target_all=True, rollout=rollout(*stages, **limits), **fields
    )
    names: list[list[str]] = [[] for _ in stages]
    for row in await database.owner.fetch(
        "SELECT device_id, stage FROM jobs.job_executions"
        " WHERE tenant_id = $1 AND job_id = $2 ORDER BY rank",
        operator.tenant,
        job_id,
    ):
        names[row["stage"]].append(row["device_id"])
    return StagedJob(database, server, operator, job_id, names)
