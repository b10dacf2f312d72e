"""Compare the calls of the service on several databases: PostgreSQL and clusters of Citus.

Calls the SQL functions as the request role, without a server. The databases take turns, and are
compared with the first one. Each needs a migrated schema. NAME=URL names a database and the request
role; NAME=URL,URL… connects the callers to several nodes. OWNER is the role that adds the devices.
The rows stay in the databases.

make bench-scale-out ARGS="--owner postgres plain=postgresql://jobs_request:secret@db/jobs …"
"""

import argparse
import asyncio
import itertools
import json
import math
import statistics
import sys
import time
import uuid
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, cast
from urllib.parse import urlsplit, urlunsplit

import asyncpg

from bench.machine import describe_machine
from bench.page import describe, format_number
from jobs_grpc.db.connection_pool import prepare_connection
from jobs_grpc.db.store import ExecutionUpdate, Store
from tests.support.list_jobs import list_jobs

_CALLERS = 16
# One per caller.
_TENANTS = _CALLERS
# Small jobs of each tenant.
_JOBS = 20
_DEVICES = 1_000
_BATCH = 100

Call = Callable[[Store, str], Awaitable[object]]


@dataclass
class Subject:
    """A database, the connections to it, and what was measured."""

    name: str
    tenants: list[str]
    connections: list[asyncpg.Connection] = field(default_factory=list)
    first_call: float = 0.0
    p50: dict[str, float] = field(default_factory=dict)
    rate: dict[str, float] = field(default_factory=dict)

    @property
    def stores(self) -> list[Store]:
        """A store for each connection."""
        return [Store(cast("Any", c)) for c in self.connections]  # the store only calls `fetch`


class Calls:
    """The calls to measure, each with its own devices and jobs."""

    def __init__(self) -> None:
        self._numbers = itertools.count()
        self._devices = {
            name: itertools.cycle(range(1, _DEVICES + 1)) for name in ("start", "report")
        }

    def all(self) -> dict[str, Call]:
        """Return the calls by name."""
        return {
            "GetJob, 10 executions": lambda s, t: s.get_job(t, job_id="small", executions_limit=10),
            f"ListJobs, {_JOBS}": self._list,
            "CreateJob, one device": lambda s, t: self.create(s, t, target_device_id="d1"),
            "CreateJob, 1,000 devices": lambda s, t: self.create(s, t, target_all=True),
            "StartNextExecution": self._start,
            f"UpdateExecution, batches of {_BATCH}": self._report,
        }

    async def create(self, store: Store, tenant: str, job_id: str = "", **target: Any) -> None:
        """Create a job. Without a `job_id`, it gets a new one."""
        await store.create_job(
            tenant,
            job_id=job_id or f"job-{next(self._numbers)}",
            request=json.dumps({"document_type": "reboot", "expires_in_hours": 24} | target),
            document_params="{}",
            created_by=None,
            max_targets=1_000_000,
            max_active_jobs=None,
            default_expires_in_hours=24,
        )

    async def _list(self, store: Store, tenant: str) -> None:
        await list_jobs(store, tenant, limit=_JOBS)

    async def _start(self, store: Store, tenant: str) -> None:
        device = f"d{next(self._devices['start'])}"
        update = ExecutionUpdate(None, device, None, must_be_next=True)
        await store.update_executions(tenant, [update], wait_ms=60_000)

    async def _report(self, store: Store, tenant: str) -> None:
        devices = [f"d{next(self._devices['report'])}" for _ in range(_BATCH)]
        updates = [ExecutionUpdate("small", device, "IN_PROGRESS") for device in devices]
        await store.update_executions(tenant, updates, wait_ms=60_000)


def main() -> None:
    """Measure, and print tables."""
    parser = argparse.ArgumentParser(
        prog="bench.scale_out", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument(
        "--owner", required=True, help="login that owns the tables, NAME[:PASSWORD]"
    )
    parser.add_argument("--seconds", type=float, default=1.5, help="per call and subject [1.5]")
    parser.add_argument("subjects", nargs="+", metavar="NAME=URL", help="the first is the base")
    args = parser.parse_args()
    try:
        asyncio.run(run(args.subjects, args.owner, args.seconds))
    except KeyboardInterrupt:
        sys.exit(130)


async def run(named: Sequence[str], owner: str, seconds: float) -> None:
    """Measure the subjects, each NAME=URL, and print tables."""
    subjects = []
    for text in named:
        name, _, urls = text.partition("=")
        subject = Subject(name, [f"bench-{uuid.uuid4().hex[:8]}" for _ in range(_TENANTS)])
        await _seed(subject, urls.split(",")[0], owner)
        await _connect(subject, urls.split(","))
        subjects.append(subject)
    calls = {subject.name: Calls() for subject in subjects}
    for subject in subjects:
        create = calls[subject.name].create
        pairs = list(zip(subject.stores, subject.tenants, strict=True))
        await asyncio.gather(*(create(s, t, job_id="small", target_all=True) for s, t in pairs))
        for _ in range(_JOBS):
            await asyncio.gather(*(create(s, t, target_device_id="d1") for s, t in pairs))
    for name in calls[subjects[0].name].all():
        for subject in subjects:
            call = calls[subject.name].all()[name]
            try:
                await call(subject.stores[0], subject.tenants[0])
            except asyncpg.PostgresError as e:
                print(f"{subject.name}: {name} fails: {e}")
                subject.p50[name] = subject.rate[name] = math.nan
                continue
            await _load(subject.stores, call, subject.tenants, min(0.5, seconds / 2))  # warm-up
            times = await _load(subject.stores[:1], call, subject.tenants, seconds)
            subject.p50[name] = statistics.median(times)
            times = await _load(subject.stores, call, subject.tenants, seconds)
            subject.rate[name] = len(times) / seconds
            print(
                f"  {name}: {subject.name} {format_number(subject.p50[name] * 1e3)} ms,"
                f" {format_number(subject.rate[name])} a second",
                flush=True,
            )
    machine = await describe_machine(subjects[0].connections[0], ["asyncpg"])
    for subject in subjects:
        for connection in subject.connections:
            connection.terminate()
    print(f"\n{render(machine, subjects)}")


async def _seed(subject: Subject, url: str, owner: str) -> None:
    parts = urlsplit(url)
    netloc = f"{owner}@{parts.netloc.rpartition('@')[2]}"
    connection = await asyncpg.connect(urlunsplit(parts._replace(netloc=netloc)))
    for tenant in subject.tenants:
        await connection.execute(
            "INSERT INTO public.device_state (tenant_id, device_id)"
            " SELECT $1, 'd' || n FROM generate_series(1, $2::int) AS n",
            tenant,
            _DEVICES,
        )
    await connection.close()


async def _connect(subject: Subject, urls: Sequence[str]) -> None:
    times = []
    for url, _ in zip(itertools.cycle(urls), range(_CALLERS), strict=False):
        started = time.perf_counter()
        connection = await asyncpg.connect(url)
        await prepare_connection(connection)
        subject.connections.append(connection)
        store = Store(cast("Any", connection))
        await store.get_jobs(subject.tenants[0], job_ids=["missing"])
        times.append(time.perf_counter() - started)
    subject.first_call = statistics.median(times)


async def _load(
    stores: Sequence[Store], call: Call, tenants: Sequence[str], seconds: float
) -> list[float]:
    """Call one after another on each connection; return the seconds that each call took.

    There is at least one call, also on a machine that is busy for `seconds`.
    """
    times: list[float] = []
    end = time.perf_counter() + seconds

    async def caller(store: Store, number: int) -> None:
        for tenant in itertools.islice(itertools.cycle(tenants), number, None):
            started = time.perf_counter()
            if started > end and times:
                return
            await call(store, tenant)
            times.append(time.perf_counter() - started)

    await asyncio.gather(*(caller(store, number) for number, store in enumerate(stores)))
    return times


def render(machine: dict[str, str], subjects: Sequence[Subject]) -> str:
    """Return the tables as Markdown. In parentheses: compared with the first subject."""
    names = [subject.name for subject in subjects]
    latencies = {"new connection with its first call": [s.first_call * 1e3 for s in subjects]}
    latencies |= {name: [s.p50[name] * 1e3 for s in subjects] for name in subjects[0].p50}
    rates = {name: [s.rate[name] for s in subjects] for name in subjects[0].rate}
    return "\n".join(
        [
            *(describe(machine), "", "One caller, median in ms:", ""),
            *_table(names, latencies),
            *("", f"{_CALLERS} callers, calls a second:", ""),
            *_table(names, rates),
        ]
    )


def _table(names: Sequence[str], rows: dict[str, list[float]]) -> list[str]:
    lines = [["", *names], ["---"] * (len(names) + 1)]
    for name, (base, *others) in rows.items():
        cells = [f"{format_number(n)} ({format_number(n / base)}×)" for n in others]
        lines.append([name, format_number(base), *cells])
    return [f"| {' | '.join(cells)} |" for cells in lines]


if __name__ == "__main__":
    main()
