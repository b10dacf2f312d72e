"""Measures how long after its commit ListEvents returns an event.

Writers add events to a few jobs as fast as they can, so that they wait for each other's locks. A
reader polls ListEvents, which also gives the events their positions.
"""

import asyncio
import random
import statistics
import time
from collections.abc import Sequence

import asyncpg
import grpc
from fleet.jobs.v1 import events_pb2 as pb
from fleet.jobs.v1 import events_pb2_grpc

from bench.requests import InvalidRun
from tests.support.database import store_on
from tests.support.event_writer import add_event, connect_writer

LAG_COLUMNS = ("writers", "events", "events/s", "lag p50, ms", "p99")

_TENANT = "lag"
_WRITERS = 16
_JOBS = [f"j{n}" for n in range(6)]
_POLL_SECONDS = 0.02


async def measure_lag(
    owner: asyncpg.Connection, request_dsn: str, address: str, events_per_writer: int
) -> Sequence[float]:
    """Return a row of a table with LAG_COLUMNS."""
    for job_id in _JOBS:
        await create_job(owner, _TENANT, job_id)
    count = _WRITERS * events_per_writer
    commits: dict[tuple[str, int], float] = {}
    began = time.perf_counter()
    async with grpc.aio.insecure_channel(address) as channel:
        reading = asyncio.create_task(_read(channel, len(_JOBS) + count))
        async with asyncio.TaskGroup() as writers:
            for seed in range(_WRITERS):
                writers.create_task(_write(request_dsn, seed, events_per_writer, commits))
        seconds = time.perf_counter() - began
        arrivals = await reading
    if not commits.keys() <= arrivals.keys():
        raise InvalidRun("ListEvents has not returned all events")
    # The reader can have an event before its writer learns of the commit.
    lags = [max(0.0, arrivals[event] - committed) for event, committed in commits.items()]
    p50, p99 = (statistics.quantiles(lags, n=100)[n - 1] * 1000 for n in (50, 99))
    return _WRITERS, count, count / seconds, p50, p99


async def create_job(owner: asyncpg.Connection, tenant: str, job_id: str) -> None:
    """Create a job for the only device of a tenant."""
    await owner.execute(
        "INSERT INTO device_state (tenant_id, device_id) VALUES ($1, 'd') ON CONFLICT DO NOTHING",
        tenant,
    )
    await store_on(owner).create_job(
        tenant,
        job_id=job_id,
        request='{"document_type": "bench", "target_all": true}',
        document_params="{}",
        created_by=None,
        max_targets=1,
        max_active_jobs=None,
        default_expires_in_hours=24,
    )


async def _write(
    request_dsn: str, seed: int, count: int, commits: dict[tuple[str, int], float]
) -> None:
    choices = random.Random(seed)  # noqa: S311 - not for secrets
    connection = await connect_writer(request_dsn, _TENANT)
    for _ in range(count):
        job_id = choices.choice(_JOBS)
        number = await add_event(connection, _TENANT, job_id)
        commits[job_id, number] = time.perf_counter()
    await connection.close()


async def _read(channel: grpc.aio.Channel, count: int) -> dict[tuple[str, int], float]:
    """Return when each event arrived."""
    stub = events_pb2_grpc.EventServiceStub(channel)
    arrivals: dict[tuple[str, int], float] = {}
    position = 0
    while len(arrivals) < count:
        page = await stub.ListEvents(
            pb.ListEventsRequest(after_position=position), metadata=(("x-tenant-id", _TENANT),)
        )
        now = time.perf_counter()
        arrivals |= {(event.job_id, event.retried_count or 1): now for event in page.events}
        position = page.position
        if not page.has_more:
            await asyncio.sleep(_POLL_SECONDS)
    return arrivals
