"""A tenant of a test, and what acts in it."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Iterable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from fleet.jobs.v1 import jobs_pb2 as pb
from google.protobuf.timestamp_pb2 import Timestamp

from jobs_grpc.maintenance.sweeper import Sweeper
from tests.support.callers import Bridge, Device, Events, Fleet, Operator
from tests.support.database import Database, job_lock_held, uncommitted
from tests.support.failures import Failure, expect_error
from tests.support.server import Server, running_server
from tests.support.staged_jobs import StagedJob, create_staged_job


@dataclass(frozen=True)
class World:
    """The operator and the devices of a tenant, the server and its database."""

    database: Database
    server: Server
    operator: Operator

    @property
    def tenant(self) -> str:
        return self.operator.tenant

    @property
    def fleet(self) -> Fleet:
        return self.server.fleet(self.tenant)

    @property
    def events(self) -> Events:
        return self.server.events(self.tenant)

    def device(self, name: str) -> Device:
        return self.server.device(self.tenant, name)

    @property
    def bridge(self) -> Bridge:
        return self.server.bridge(self.tenant)

    @property
    def pump(self) -> Device:
        """The device "pump" of the tenant, which most tests of one device use."""
        return self.device("pump")

    async def add_devices(self, devices: int | Iterable[str], group: str = "") -> None:
        """Add devices to the tenant: see Database."""
        await self.database.add_devices(self.tenant, devices, group)

    async def create(self, *job_ids: str, **fields: Any) -> pb.CreateJobResponse:
        """Create jobs, by default "j", for all devices or another target; see Operator.create.

        Return the response to the last call.
        """
        if not any(name.startswith("target_") for name in fields):
            fields["target_all"] = True
        *_, last = [
            await self.operator.create(job_id=job_id, **fields) for job_id in job_ids or ("j",)
        ]
        return last

    async def create_staged(self, *stages: dict[str, Any], **fields: Any) -> StagedJob:
        """Create the job "j" with these stages: see create_staged_job."""
        return await create_staged_job(self.database, self.server, self.operator, *stages, **fields)

    @asynccontextmanager
    async def on_another_server(self, **variables: str) -> AsyncIterator["World"]:
        """The same tenant on another server. Keyword arguments are environment variables."""
        async with running_server(self.database.request_dsn, **variables) as server:
            yield World(self.database, server, server.operator(self.tenant, self.operator.user))

    def with_background_work(self) -> AbstractAsyncContextManager["World"]:
        """The same tenant on a server that does background work."""
        return self.on_another_server(JOBS_OWNER_DATABASE_URL=self.database.owner_dsn)

    async def pass_time(self, seconds: float) -> None:
        await self.database.pass_time(seconds)

    async def time_in(self, seconds: float) -> Timestamp:
        """The time of the database, this many seconds later."""
        now = await self.database.owner.fetchval("SELECT jobs.now()")
        timestamp = Timestamp()
        timestamp.FromDatetime(now + timedelta(seconds=seconds))
        return timestamp

    async def expire(self, job_id: str = "j") -> None:
        """Let a job have expired an hour ago."""
        await self.database.expire(self.tenant, job_id)

    async def make_overdue(self, job_id: str = "j") -> None:
        """Let the timeout of a job's IN_PROGRESS executions have passed a minute ago."""
        await self.database.make_overdue(self.tenant, job_id)

    async def sweep(self) -> None:
        """Time out what is overdue, and finalize what has ended, as maintenance does."""
        async with Sweeper(self.database.owner_dsn) as sweeper:
            await sweeper.run_once()

    def lock_held(self, job_id: str = "j") -> AbstractAsyncContextManager[int]:
        """Hold the lock of a job: see job_lock_held."""
        return job_lock_held(self.database, self.tenant, job_id)

    async def owner_value(self, sql: str, *args: object) -> Any:
        """Return the value of a statement of the owner, whose first parameter is the tenant."""
        return await self.database.owner.fetchval(sql, self.tenant, *args)

    async def rows(self, sql: str, *args: object) -> list[Any]:
        """Return the rows of a statement of the owner, whose first parameter is the tenant."""
        rows: list[Any] = await self.database.owner.fetch(sql, self.tenant, *args)
        return rows

    async def execute(self, sql: str, *args: object) -> None:
        """Execute a statement of the owner, whose first parameter is the tenant."""
        await self.database.owner.execute(sql, self.tenant, *args)

    async def blocked(self, call: Awaitable[Any], count: int = 1) -> asyncio.Task[Any]:
        """Start a call, and return it when this many sessions wait for a lock."""
        return await self.database.blocked(call, count)

    async def lock_in_order(
        self, first: Awaitable[Any], second: Awaitable[Any]
    ) -> tuple[asyncio.Task[Any], asyncio.Task[Any]]:
        """Let two calls wait for the lock of the job "j" in this order. Return their tasks."""
        async with self.lock_held():
            return await self.blocked(first), await self.blocked(second, 2)

    async def second_fails(
        self, reason: str, first: Awaitable[Any], second: Awaitable[Any]
    ) -> Failure:
        """Let two calls get the lock of the job "j" in this order: the second one fails."""
        first_task, second_task = await self.lock_in_order(first, second)
        await first_task
        return await expect_error(reason, second_task)

    async def wait_for_commit(
        self, call: Awaitable[Any], sql: str, *args: object
    ) -> asyncio.Task[Any]:
        """Let a call wait for a lock of a statement, which then commits. Return the call's task.

        The first parameter of the statement is the tenant.
        """
        async with uncommitted(self.database, sql, self.tenant, *args):
            return await self.blocked(call)


def uncommitted_report(
    database: Database, device: Device, status: str | None, attempt: int | None = None
) -> AbstractAsyncContextManager[None]:
    """Apply a start (None) or a report on "j" as another server would; commit at the end."""
    return uncommitted(
        database,
        "SELECT outcome FROM jobs.update_executions($1, 1000, '{j}', '{f}', ARRAY[$2], ARRAY[$3],"
        " '{NULL}', ARRAY[$4::integer], '{NULL}', '{NULL}', '{f}', '{NULL}')",
        device.tenant,
        device.name,
        status,
        attempt,
    )
