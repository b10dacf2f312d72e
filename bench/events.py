"""Measure the log of events and its streams.

Run by `make bench-events`. PostgreSQL and the server are separate processes. Five parts:

- writes: what events cost the calls that add them; see bench.event_writes. Needs Linux and the
  history.
- log: what a log of many events takes on disk, and how long a page, a sequenced and a purged event
  take.
- lag: how long after its commit ListEvents returns an event; see bench.event_lag.
- one tenant: many streams of one tenant, while its jobs have events: the CPU time of the server,
  how long after its commit an event arrives, and then how long GetJob of another tenant takes.
- tenants: the same with one stream per tenant, which are idle except for one.
"""

import argparse
import asyncio
import statistics
import time
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg
import grpc
from fleet.jobs.v1 import events_pb2 as pb
from fleet.jobs.v1 import events_pb2_grpc

from bench.environment import SETTINGS, Server, running_service
from bench.event_lag import LAG_COLUMNS, create_job, measure_lag
from bench.event_writes import COLUMNS, COMMIT_BEFORE, measure_writes
from bench.hostile.other_tenant import TENANT
from bench.machine import describe_machine
from bench.other_tenant_calls import other_tenant_calls
from bench.page import RESULTS, describe, format_number, replace_figures
from bench.postgres import running_postgres, temporary_folder
from bench.process import postgres_cpu_time
from bench.requests import InvalidRun
from jobs_grpc.db.migrate import RequestRole, migrate
from jobs_grpc.dev.embedded_postgres import Cluster
from jobs_grpc.maintenance.event_tasks import EVENTS_PER_PURGE
from tests.support.database import store_on
from tests.upgrade.earlier_version import NoHistoryError

_ROLE = RequestRole()
_TENANT = "t1"
# Calls of one connection, of which gRPC allows a limited number.
_STREAMS_PER_CONNECTION = 250
_EVENTS_PER_BATCH = 10_000

# The events of jobs without `execution_events`: type, status, whether it has a user, and details.
# Every 20 events are these, and those of five jobs.
_MIX: tuple[tuple[str, str, bool, str | None], ...] = (
    *[("job.created", "IN_PROGRESS", True, None)] * 5,
    *[("job.stage_opened", "IN_PROGRESS", False, '{"stage": 1, "cause": "GATE"}')] * 3,
    ("job.awaiting_approval", "IN_PROGRESS", False, '{"stage": 0}'),
    ("job.approved", "IN_PROGRESS", True, '{"stage": 0, "reason": "no new failures"}'),
    ("job.paused", "PAUSED", True, '{"cause": "OPERATOR", "reason": "the error rate is too high"}'),
    ("job.resumed", "IN_PROGRESS", True, None),
    ("job.updated", "IN_PROGRESS", True, '{"updated_fields": ["rollout.max_in_progress"]}'),
    ("job.retried", "IN_PROGRESS", True, '{"retried_count": 12}'),
    ("job.canceled", "CANCELED", True, '{"cause": "OPERATOR", "reason": "superseded"}'),
    *[("job.completed", "COMPLETED", False, None)] * 4,
    ("job.deleted", "COMPLETED", False, '{"cause": "RETENTION"}'),
)
_QUEUE = """
    INSERT INTO jobs.event_queue
        (tenant_id, job_id, number, type, occurred_at, status, counts, user_id, details)
    SELECT $1, 'reboot-' || left(md5((n / 20 * 5 + n % 5)::text), 11), n, m.type, now(), m.status,
           '{100,0,20,3000,12,1,0}', CASE WHEN m.has_user THEN 'olivia' END, m.details
    FROM generate_series($2, $2::integer + $3::integer - 1) n
    JOIN unnest($4::text[], $5::text[], $6::boolean[], $7::jsonb[])
        WITH ORDINALITY AS m (type, status, has_user, details, number)
        ON m.number = 1 + n % cardinality($4)
"""
_SIZE = "SELECT pg_total_relation_size('jobs.events')"
_LOG_COLUMNS = (
    *("events", "MB", "ms a page of 100", "µs CPU to sequence"),
    *("to purge one of too many", "one that is too old"),
)


def main() -> None:
    """Measure and print tables; with --page, keep them."""
    parser = argparse.ArgumentParser(prog="bench.events", description=__doc__)
    parser.add_argument("--events", type=int, default=1_000_000, help="events in the log [1000000]")
    parser.add_argument("--calls", type=int, default=1000, help="calls of a kind [1000]")
    parser.add_argument("--streams", type=int, default=1000, help="open streams [1000]")
    parser.add_argument("--rate", type=float, default=20, help="events per second [20]")
    parser.add_argument("--seconds", type=float, default=30, help="seconds per phase [30]")
    parser.add_argument(
        "--quick", action="store_true", help="tiny sizes: check that the benchmark works"
    )
    parser.add_argument(
        "--page", action="store_true", help="write the tables to bench/results/events.md"
    )
    args = parser.parse_args()
    if args.quick:
        args.events, args.calls, args.streams, args.seconds = 20_000, 20, 20, 2
    with temporary_folder() as folder, running_postgres(folder / "data", *SETTINGS) as cluster:
        asyncio.run(_measure(args, folder, cluster))


async def _measure(args: argparse.Namespace, folder: Path, cluster: Cluster) -> None:
    owner_dsn, request_dsn = cluster.dsn("postgres"), cluster.dsn("postgres", _ROLE.name)
    await migrate(owner_dsn, _ROLE)
    owner = await asyncpg.connect(owner_dsn)
    machine = await describe_machine(owner)
    try:
        writes = _table(COLUMNS, await measure_writes(cluster, folder, args.calls))
    except NoHistoryError as e:
        writes = f"Commit {COMMIT_BEFORE} is not in this copy of the project: {e}"
    rows = [await _measure_log(args, folder, owner, request_dsn)]
    log = _table(_LOG_COLUMNS, rows)
    await owner.execute("TRUNCATE jobs.events, jobs.event_heads, jobs.event_queue")
    await create_job(owner, TENANT, "j")  # for the other tenant to read
    async with _server(folder, request_dsn) as server:
        lag = _table(
            LAG_COLUMNS, [await measure_lag(owner, request_dsn, server.address, args.events // 200)]
        )
    rows = []
    for tenants in (1, args.streams):
        async with _server(folder, request_dsn) as server:
            run = Run(args, folder, owner, server, tenants)
            rows.append(await run.measure())
    columns = (
        *("streams", "tenants", "events/s", "server, % of a core", "PostgreSQL, %"),
        *("lag p50, ms", "p99", "other tenant p99, ms"),
    )
    report = "\n\n".join((describe(machine), writes, log, lag, _table(columns, rows)))
    print(report)
    if args.page:
        replace_figures(RESULTS / "events.md", report)


async def _measure_log(
    args: argparse.Namespace, folder: Path, owner: asyncpg.Connection, request_dsn: str
) -> Sequence[float]:
    request = await asyncpg.connect(request_dsn)
    sequencing = 0.0
    for start in range(0, args.events, _EVENTS_PER_BATCH):
        await _queue(owner, start, _EVENTS_PER_BATCH)
        began = postgres_cpu_time(folder)
        while await request.fetchval("SELECT jobs.sequence_queued_events($1)", _TENANT):
            pass
        sequencing += postgres_cpu_time(folder) - began
        await owner.execute("VACUUM jobs.event_queue")
    await owner.execute("VACUUM ANALYZE jobs.events")
    if await owner.fetchval("SELECT count(*) FROM jobs.events") != args.events:
        raise InvalidRun("not all events are in the log")
    megabytes = await owner.fetchval(_SIZE) / 1e6
    store = store_on(request)
    first = await owner.fetchval("SELECT min(position) FROM jobs.events")
    pages = []
    for n in range(200):
        began = time.perf_counter()
        await store.list_events(_TENANT, after_position=first + n, limit=101)
        pages.append(time.perf_counter() - began)
    too_many = await _purge(folder, owner, 7, args.events // 2)
    too_old = await _purge(folder, owner, 0, args.events)
    await request.close()
    micros = 1e6 / args.events
    return (
        *(args.events, megabytes, statistics.median(pages) * 1000),
        *(sequencing * micros, 2 * too_many * micros, 2 * too_old * micros),
    )


async def _purge(folder: Path, owner: asyncpg.Connection, days: int, max_events: int) -> float:
    """Purge events as the sweeper does, and return the CPU seconds of PostgreSQL."""
    began = postgres_cpu_time(folder)
    position: int | None = 0
    while position is not None:
        position = await owner.fetchval(
            "SELECT jobs.purge_events($1, $2, $3, $4, $5)",
            *(_TENANT, days, max_events, EVENTS_PER_PURGE, position),
        )
    return postgres_cpu_time(folder) - began


async def _queue(owner: asyncpg.Connection, start: int, count: int) -> None:
    """Add events that have no position yet."""
    await owner.execute(_QUEUE, _TENANT, start, count, *(list(c) for c in zip(*_MIX, strict=True)))


def _server(folder: Path, request_dsn: str) -> AbstractAsyncContextManager[Server]:
    return running_service(request_dsn, folder / "server.log", JOBS_LOG_LEVEL="ERROR")


@dataclass(frozen=True)
class Run:
    """A phase: streams of one or of many tenants."""

    args: argparse.Namespace
    folder: Path
    owner: asyncpg.Connection
    server: Server
    tenants: int

    async def measure(self) -> Sequence[float]:
        """Return a row of the table."""
        streams = self.args.streams
        lags: list[float] = []
        channels = [
            grpc.aio.insecure_channel(
                self.server.address, options=(("grpc.use_local_subchannel_pool", 1),)
            )
            for _ in range(-(-streams // _STREAMS_PER_CONNECTION))
        ]
        opened = asyncio.Semaphore(0)
        tasks = []
        for n in range(streams):
            stub = events_pb2_grpc.EventServiceStub(channels[n // _STREAMS_PER_CONNECTION])
            tenant = f"t{n % self.tenants + 1}"
            tasks.append(asyncio.create_task(_receive(stub, tenant, opened, lags)))
        for _ in range(streams):
            await opened.acquire()
        cpu = self.server.cpu_time()
        postgres = postgres_cpu_time(self.folder)
        began = time.perf_counter()
        number = 0
        while time.perf_counter() - began < self.args.seconds:
            await _queue(self.owner, number, 1)
            number += 1
            await asyncio.sleep(max(0, began + number / self.args.rate - time.perf_counter()))
        seconds = time.perf_counter() - began
        rate = number / seconds
        cpu = self.server.cpu_time() - cpu
        postgres = postgres_cpu_time(self.folder) - postgres
        async with other_tenant_calls(self.server) as calls:
            for _ in range(round(self.args.seconds * self.args.rate)):
                await _queue(self.owner, number, 1)
                number += 1
                await asyncio.sleep(1 / self.args.rate)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for channel in channels:
            await channel.close()
        return (
            *(streams, self.tenants, rate),
            *(100 * cpu / seconds, 100 * postgres / seconds),
            *(
                _percentile(lags, 50),
                _percentile(lags, 99),
                _percentile([call[1] for call in calls], 99),
            ),
        )


async def _receive(stub: Any, tenant: str, opened: asyncio.Semaphore, lags: list[float]) -> None:
    """Keep a stream open; append how many seconds after its time each event arrives."""
    call = stub.WatchEvents(pb.WatchEventsRequest(), metadata=(("x-tenant-id", tenant),))
    with suppress(asyncio.CancelledError):
        is_first = True
        async for response in call:
            now = time.time()
            if is_first:
                is_first = False
                opened.release()
            lags += [now - e.time.seconds - e.time.nanos / 1e9 for e in response.events]
    call.cancel()


def _percentile(seconds: Sequence[float], percent: int) -> float:
    """Return a percentile in milliseconds."""
    return statistics.quantiles(seconds, n=100)[percent - 1] * 1000


def _table(columns: Sequence[str], rows: Sequence[Sequence[float | str]]) -> str:
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    lines += [f"| {' | '.join(map(_format, row))} |" for row in rows]
    return "\n".join(lines)


def _format(cell: float | str) -> str:
    return cell if isinstance(cell, str) else format_number(cell)


if __name__ == "__main__":
    main()
