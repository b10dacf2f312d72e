"""A test's database: its devices, changes of stored rows, and locks."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any, cast
from urllib.parse import urlsplit

import asyncpg

from jobs_grpc.db import citus
from jobs_grpc.db.connection_pool import prepare_connection
from jobs_grpc.db.migrate import RequestRole, migrate
from jobs_grpc.db.store import ExecutionUpdate, Row, Store
from tests.support.postgres import Postgres, connect, connected
from tests.support.waiting import read_until, wait_until_equal

_BLOCKED_SESSIONS = (
    "FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
)


@dataclass(frozen=True)
class Database:
    """A migrated database: the DSNs of both logins, and a connection as the owner."""

    owner_dsn: str
    request_dsn: str
    owner: asyncpg.Connection

    @cached_property
    def request_sessions(self) -> asyncpg.Pool:
        """Sessions of the request role. Each plans a function at its first call, for 50 ms."""
        return asyncpg.create_pool(self.request_dsn, min_size=0, max_size=50)

    @property
    def name(self) -> str:
        return urlsplit(self.owner_dsn).path.removeprefix("/")

    @property
    def role(self) -> RequestRole:
        return RequestRole.from_dsn(self.request_dsn)

    async def add_devices(self, tenant: str, devices: int | Iterable[str], group: str = "") -> None:
        """Add devices by name, or that many named d00001, d00002 …, optionally to a group."""
        if isinstance(devices, int):
            devices = [f"d{n:05}" for n in range(1, devices + 1)]
        names = list(devices)
        await self.owner.execute(
            "INSERT INTO public.device_state (tenant_id, device_id) SELECT $1, unnest($2::text[])"
            " ON CONFLICT DO NOTHING",
            tenant,
            names,
        )
        if group:
            await self.owner.execute(
                "INSERT INTO public.device_group_members (tenant_id, group_id, device_id)"
                " SELECT $1, $2, unnest($3::text[])",
                tenant,
                group,
                names,
            )

    async def remove_devices(self, tenant: str, devices: Iterable[str]) -> None:
        for table in ("public.device_state", "public.device_group_members", "jobs.devices"):
            await self.owner.execute(
                f"DELETE FROM {table} WHERE tenant_id = $1 AND device_id = ANY ($2::text[])",
                tenant,
                list(devices),
            )

    async def add_labels(self, tenant: str, labels: Mapping[str, Mapping[str, str]]) -> None:
        await self.owner.execute(
            "INSERT INTO jobs.devices (tenant_id, device_id, labels)"
            " SELECT $1, * FROM unnest($2::text[], $3::jsonb[])"
            " ON CONFLICT (tenant_id, device_id) DO UPDATE SET labels = excluded.labels",
            tenant,
            list(labels),
            [json.dumps(of_device) for of_device in labels.values()],
        )

    async def add_facts(self, tenant: str, facts: Mapping[str, Mapping[str, str]]) -> None:
        await self.owner.execute(
            "INSERT INTO jobs.device_facts (tenant_id, device_id, facts, facts_updated_at)"
            " SELECT $1, *, now() FROM unnest($2::text[], $3::jsonb[])"
            " ON CONFLICT (tenant_id, device_id) DO UPDATE SET facts = excluded.facts",
            tenant,
            list(facts),
            [json.dumps(of_device) for of_device in facts.values()],
        )

    async def order_of_release(self, devices: Iterable[str], seed: str) -> list[str]:
        """Return the devices in the order in which a rollout with this seed releases them."""
        rows = await self.owner.fetch(
            "SELECT d FROM unnest($1::text[]) AS d"
            " ORDER BY hashtextextended(d, hashtextextended($2, 0)), d",
            list(devices),
            seed,
        )
        return [row["d"] for row in rows]

    async def set_status(self, tenant: str, job_id: str, device: str, status: str) -> None:
        """Store another status for an execution and adjust the counts; nothing else changes."""
        async with self.owner.transaction():
            # Lock the job first, as every change of a job does, to avoid deadlocks.
            await self.owner.execute(
                "SELECT FROM jobs.job_progress WHERE tenant_id = $1 AND job_id = $2 FOR UPDATE",
                tenant,
                job_id,
            )
            before = await self.owner.fetchval(
                "SELECT status::text FROM jobs.job_executions"
                " WHERE tenant_id = $1 AND job_id = $2 AND device_id = $3",
                tenant,
                job_id,
                device,
            )
            await self.owner.execute(
                "UPDATE jobs.job_executions SET status = $4::jobs.execution_status,"
                " started_at = now(), last_updated_at = now()"
                " WHERE tenant_id = $1 AND job_id = $2 AND device_id = $3",
                tenant,
                job_id,
                device,
                status,
            )
            await self.owner.execute(
                f"UPDATE jobs.job_progress SET {before} = {before} - 1, {status} = {status} + 1"
                " WHERE tenant_id = $1 AND job_id = $2",
                tenant,
                job_id,
            )

    async def recount(self, tenant: str | None = None) -> list[tuple[Any, ...]]:
        """Return the counts that differ from the executions, of a tenant's jobs or of all jobs."""
        jobs = await self.owner.fetch(
            "SELECT tenant_id, job_id FROM jobs.jobs WHERE deleted_at IS NULL"
            " AND tenant_id = coalesce($1, tenant_id)",
            tenant,
        )
        return [
            (*job, *row)
            for job in jobs
            for row in await self.owner.fetch("SELECT * FROM jobs.recount($1, $2)", *job)
        ]

    async def blocked_sessions(self) -> int:
        """Count the sessions of this database that wait for a lock, on all nodes of a cluster."""
        return await self._sum_of_nodes(f"SELECT count(*) {_BLOCKED_SESSIONS}")

    async def cancel_blocked_sessions(self) -> None:
        """Cancel the statements that wait for a lock, on all nodes of a cluster."""
        await self._sum_of_nodes(f"SELECT count(pg_cancel_backend(pid)) {_BLOCKED_SESSIONS}")

    async def terminate_blocked_sessions(self) -> None:
        """Terminate the sessions that wait for a lock, on all nodes of a cluster."""
        await self._sum_of_nodes(f"SELECT count(pg_terminate_backend(pid)) {_BLOCKED_SESSIONS}")

    async def terminate_request_sessions(self) -> int:
        """Terminate the sessions of the request role; return their number."""
        terminated: int = await self.owner.fetchval(
            "SELECT count(pg_terminate_backend(pid, 5000)) FROM pg_stat_activity WHERE usename = $1"
            " AND datname = current_database()",
            self.role.name,
        )
        return terminated

    async def sessions(self, condition: str, *args: object) -> list[int]:
        """Return the processes of the other sessions of this database that meet the condition."""
        await self._clear_statistics_snapshot()
        rows = await self.owner.fetch(
            "SELECT pid FROM pg_stat_activity WHERE datname = current_database()"
            f" AND pid <> pg_backend_pid() AND {condition}",
            *args,
        )
        return [row["pid"] for row in rows]

    async def wait_for_session(self, condition: str, *args: object) -> int:
        """Return the process of a session when it meets the condition."""
        return (await read_until(lambda: self.sessions(condition, *args), bool))[0]

    async def wait_for_idle_sessions(self) -> None:
        """Return when no session of the request role runs a statement, on all nodes of a cluster.

        After the end of a server, its sessions still run their last statements.
        """
        sql = (
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
            f" AND usename = '{self.role.name}' AND state <> 'idle'"
        )
        await wait_until_equal(lambda: self._sum_of_nodes(sql), 0)

    async def _sum_of_nodes(self, sql: str) -> int:
        await self._clear_statistics_snapshot()
        number: int = (
            await self.owner.fetchval(
                "SELECT sum(result::integer) FROM run_command_on_all_nodes($1)", sql
            )
            if await citus.is_installed(self.owner)
            else await self.owner.fetchval(sql)
        )
        return number

    async def _clear_statistics_snapshot(self) -> None:
        # In a transaction, PostgreSQL would otherwise show the sessions as of the first query.
        await self.owner.execute("SELECT pg_stat_clear_snapshot()")

    async def wait_for_blocked_sessions(self, count: int) -> None:
        """Return when exactly `count` sessions of this database wait for a lock."""
        await wait_until_equal(self.blocked_sessions, count)

    async def wait_for_session_behind(self, holder: int) -> None:
        """Return when a session waits for a lock that this process has. Needs a single node."""
        await self.wait_for_session("$1 = ANY (pg_blocking_pids(pid))", holder)

    async def blocked(self, call: Awaitable[Any], count: int = 1) -> asyncio.Task[Any]:
        """Start a call, and return it when exactly `count` sessions wait for a lock."""
        task = asyncio.ensure_future(call)
        await self.wait_for_blocked_sessions(count)
        return task

    async def blocked_in(self, function: str, call: Awaitable[Any]) -> asyncio.Task[Any]:
        """Start a call, and return it when this SQL function waits for a lock.

        For locks of whole tables: background statements of a server may wait for them, too.
        """
        task = asyncio.ensure_future(call)
        await read_until(lambda: self.sessions_blocked_in(function), bool)
        return task

    async def sessions_blocked_in(self, function: str) -> int:
        """Count the sessions in which this SQL function waits for a lock."""
        condition = "wait_event_type = 'Lock' AND strpos(query, $1) > 0"
        return len(await self.sessions(condition, f"jobs.{function}("))

    async def expire(self, tenant: str, job_id: str) -> None:
        """Move the job's expiry to an hour ago, and its creation to an hour before that."""
        await self.owner.execute(
            "UPDATE jobs.jobs SET expires_at = now() - interval '1 hour',"
            " created_at = now() - interval '2 hours', updated_at = now() - interval '2 hours'"
            " WHERE tenant_id = $1 AND job_id = $2",
            tenant,
            job_id,
        )

    async def pass_time(self, seconds: float) -> None:
        """Move the time of the database forward, for all its tenants."""
        offset = await self.owner.fetchval("SELECT jobs.clock_time() - clock_timestamp()")
        await self.set_time_offset(round(offset.total_seconds(), 3) + seconds)

    async def set_time_offset(self, seconds: float) -> None:
        """Let the time of the database be later than the real time. 0: as in production."""
        for name, volatility, time in (
            ("now", "STABLE", "pg_catalog.now()"),
            ("clock_time", "VOLATILE", "clock_timestamp()"),
        ):
            await self.owner.execute(
                f"CREATE OR REPLACE FUNCTION jobs.{name}() RETURNS timestamptz LANGUAGE sql"
                f" {volatility} PARALLEL SAFE RETURN {time} + interval '{seconds} seconds'"
            )

    async def make_overdue(self, tenant: str, job_id: str) -> None:
        """Move the timeout of the job's IN_PROGRESS executions to a minute ago."""
        await self.owner.execute(
            "UPDATE jobs.job_executions SET times_out_at = now() - interval '1 minute'"
            " WHERE tenant_id = $1 AND job_id = $2 AND status = 'IN_PROGRESS'",
            tenant,
            job_id,
        )


def moved_back(interval: str, *columns: str) -> str:
    """Return the SET of an UPDATE that moves times of a row into the past."""
    # Without AT TIME ZONE, the subtraction is STABLE, which Citus refuses.
    earlier = f"AT TIME ZONE 'UTC' - {interval}) AT TIME ZONE 'UTC'"
    return ", ".join(f"{column} = ({column} {earlier}" for column in columns)


@asynccontextmanager
async def new_database(
    postgres: Postgres,
    template: str | None = None,
    role: RequestRole | None = None,
    *,
    new_role: bool = False,
) -> AsyncIterator[Database]:
    """Create a database, which is empty without a template.

    Its request role is that of the cluster, `role`, or a new one, which does not exist yet.
    """
    async with AsyncExitStack() as stack:
        name = await stack.enter_async_context(postgres.database(template))
        if new_role:
            role = await stack.enter_async_context(postgres.unused_role(name))
        owner = await connect(postgres.dsn(name))
        stack.push_async_callback(owner.close)
        database = Database(postgres.dsn(name), postgres.dsn(name, role or postgres.role), owner)
        sessions = await stack.enter_async_context(database.request_sessions)
        stack.callback(sessions.terminate)
        yield database


@asynccontextmanager
async def fresh_database(cluster: tuple[Postgres, str]) -> AsyncIterator[Database]:
    """Create a migrated database with a request role, for one test."""
    async with new_database(*cluster, new_role=True) as database:
        await migrate(database.owner_dsn, database.role)
        yield database


def job_lock_held(database: Database, tenant: str, job_id: str) -> AbstractAsyncContextManager[int]:
    """Hold a job's lock in a separate session, so that transitions of the job wait.

    They get the lock in the order in which they began to wait only if there are at most two: the
    first to change the row leaves the others to compete for its new version.
    """
    return rows_locked(database, "jobs.job_progress", tenant_id=tenant, job_id=job_id)


@asynccontextmanager
async def rows_locked(database: Database, table: str, **key: str) -> AsyncIterator[int]:
    """Lock the rows of a table that have these values, in a session whose process is yielded."""
    condition = " AND ".join(f"{column} = ${n}" for n, column in enumerate(key, 1))
    async with connected(database.owner_dsn) as holder, holder.transaction():
        await holder.execute(f"SELECT FROM {table} WHERE {condition} FOR UPDATE", *key.values())
        yield holder.get_server_pid()


@asynccontextmanager
async def replaced_function(database: Database, name: str, definition: str) -> AsyncIterator[None]:
    """Replace a function during the block. Its name must not be overloaded."""
    original = await database.owner.fetchval("SELECT pg_get_functiondef($1::regproc)", name)
    await database.owner.execute(definition)
    try:
        yield
    finally:
        await database.owner.execute(original)


@asynccontextmanager
async def edited_function(
    database: Database, function: str, part: str, other: str
) -> AsyncIterator[None]:
    """Replace a part of a function of the schema jobs during the block."""
    name = f"jobs.{function}"
    definition = await database.owner.fetchval("SELECT pg_get_functiondef($1::regproc)", name)
    assert part in definition
    async with replaced_function(database, name, definition.replace(part, other)):
        yield


@asynccontextmanager
async def uncommitted(database: Database, sql: str, *args: object) -> AsyncIterator[None]:
    """Run a statement as another server would, and commit when the block ends.

    The first argument is the tenant.
    """
    async with database.request_sessions.acquire() as session, session.transaction():
        await session.execute("SELECT set_config('app.tenant_id', $1, true)", args[0])
        await session.fetch(sql, *args)
        yield


def cancel_job_runs(database: Database, statement: str) -> AbstractAsyncContextManager[None]:
    """Replace the body of jobs.cancel_job with one statement during the block."""
    return replaced_function(
        database,
        "jobs.cancel_job",
        "CREATE OR REPLACE FUNCTION jobs.cancel_job(p_tenant_id text, p_job_id text,"
        " p_reason text, p_force boolean DEFAULT false, p_user_id text DEFAULT NULL,"
        " p_etag text DEFAULT '') RETURNS void LANGUAGE plpgsql"
        f" AS $$ BEGIN {statement}; END $$",
    )


class Session:
    """One connection in place of a db.database.Database."""

    def __init__(self, connection: asyncpg.Connection, *, is_distributed: bool) -> None:
        self.is_distributed = is_distributed
        self.fetch = self.fetch_for_tenants = connection.fetch


@asynccontextmanager
async def shared_store(database: Database) -> AsyncIterator[Store]:
    """A store on one session of the request role, which several tasks use in turn."""
    async with request_session(database) as (connection, store):
        await prepare_connection(connection)
        lock = asyncio.Lock()
        session: Any = store._database
        fetch = session.fetch

        async def one_at_a_time(*args: Any) -> Any:
            async with lock:
                return await fetch(*args)

        session.fetch = session.fetch_for_tenants = one_at_a_time
        yield store


def store_on(connection: asyncpg.Connection, *, is_distributed: bool = False) -> Store:
    """Return a store that calls functions on this connection, which may be on Citus."""
    return Store(cast("Any", Session(connection, is_distributed=is_distributed)))


async def send_batch(database: Database, tenant: str, *updates: ExecutionUpdate) -> Sequence[Row]:
    """Send reports and starts as one batch, as another server would. Return a row for each."""
    async with request_session(database) as (_, store):
        return await store.update_executions(tenant, updates, wait_ms=60_000)


@asynccontextmanager
async def request_session(database: Database) -> AsyncIterator[tuple[asyncpg.Connection, Store]]:
    """Use a session of the request role, as a second server would, with a store on it."""
    async with database.request_sessions.acquire() as proxy:
        connection = cast("asyncpg.Connection", proxy)
        is_distributed = await citus.is_installed(connection)
        yield connection, store_on(connection, is_distributed=is_distributed)
