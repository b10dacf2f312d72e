"""Every reader sees all events of a job once and in order, whatever happens to the sessions."""

import asyncio
import random
from collections import defaultdict
from collections.abc import Sequence
from contextlib import aclosing, suppress

import asyncpg
import pytest
from fleet.jobs.v1 import events_pb2 as pb

from jobs_grpc.db.pg_errors import CONNECTION_LOST
from tests.support.callers import Events, Operator
from tests.support.database import Database
from tests.support.event_writer import add_event, connect_writer
from tests.support.scale import SCALE, scaled
from tests.support.server import Server
from tests.support.waiting import TIMEOUT

WRITERS = 16
EVENTS_PER_WRITER = scaled(125, 2)
JOBS = [f"j{n}" for n in range(6)]
COMMITS_PER_KILL = 20


class Sessions:
    """Writers of events and a sequencer, whose sessions are terminated at random."""

    def __init__(self, database: Database, tenant: str) -> None:
        self._database = database
        self._tenant = tenant
        self._random = random.Random(1)  # noqa: S311 - not for secrets
        self._pids: set[int] = set()
        self.commits = 0
        self._killing = asyncio.Lock()
        self.kills = 0
        self.done = asyncio.Event()

    async def write(self, seed: int) -> None:
        """Add events to random jobs; after a lost session, go on with another one."""
        choices = random.Random(seed)  # noqa: S311 - not for secrets
        left = EVENTS_PER_WRITER
        while left:
            with suppress(asyncpg.PostgresError, *CONNECTION_LOST):
                connection = await self._connect()
                while left:
                    job_id = choices.choice(JOBS)
                    await add_event(connection, self._tenant, job_id)
                    self.commits += 1
                    left -= 1
                    await self._kill_at_times()
                await connection.close()

    async def sequence(self) -> None:
        """Sequence events as the sweeper does, until the writers are done."""
        while not self.done.is_set():
            with suppress(asyncpg.PostgresError, *CONNECTION_LOST):
                connection = await self._connect()
                while not self.done.is_set():
                    await connection.fetch("SELECT jobs.sequence_queued_events($1)", self._tenant)
                await connection.close()

    async def _connect(self) -> asyncpg.Connection:
        connection = await connect_writer(self._database.request_dsn, self._tenant)
        self._pids.add(connection.get_server_pid())
        return connection

    async def _kill_at_times(self) -> None:
        if self.commits % COMMITS_PER_KILL == 0:
            pid = self._random.choice(sorted(self._pids))
            self._pids.discard(pid)
            async with self._killing:
                self.kills += await self._database.owner.fetchval(
                    "SELECT pg_terminate_backend($1)", pid
                )


async def read_log(events: Events, sessions: Sessions) -> Sequence[pb.Event]:
    """Read pages, each after the position of the one before, until the writers are done."""
    found: list[pb.Event] = []
    position = 0
    while True:
        done = sessions.done.is_set()
        page = await events.list(after_position=position, limit=500)
        found += page.events
        position = page.position
        if done and not page.has_more:
            return found


async def read_stream(events: Events, count: "asyncio.Future[int]") -> Sequence[pb.Event]:
    """Read a stream until it has as many events as the log; resume it after ten responses."""
    found: list[pb.Event] = []
    position = 0
    while not (count.done() and len(found) >= count.result()):
        async with aclosing(events.watch(after_position=position)) as responses:
            for _ in range(10):
                with suppress(TimeoutError):
                    async with asyncio.timeout(1):
                        response = await anext(responses)
                        found += response.events
                        position = response.position
                        continue
                break
    return found


def numbers_by_job(events: Sequence[pb.Event]) -> dict[str, list[int]]:
    """Return the numbers of each job's events, in the order of the events."""
    numbers: dict[str, list[int]] = defaultdict(list)
    for event in events:
        numbers[event.job_id].append(event.retried_count or 1)  # job.created is the first
    return numbers


@pytest.mark.slow
@pytest.mark.single_node("terminates sessions of one node")
@pytest.mark.timeout(120 + 30 * SCALE)
async def test_readers_see_each_event_once_and_in_order_while_sessions_are_killed(
    database: Database, server: Server, operator: Operator
) -> None:
    tenant = operator.tenant
    events = server.events(tenant)
    await database.add_devices(tenant, ["pump"])
    for job_id in JOBS:
        await operator.create(job_id=job_id, target_all=True)
    sessions = Sessions(database, tenant)
    logged: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    sequencing = asyncio.create_task(sessions.sequence())
    reading = asyncio.create_task(read_log(events, sessions))
    streaming = asyncio.create_task(read_stream(events, logged))
    async with asyncio.TaskGroup() as writers:
        for seed in range(WRITERS):
            writers.create_task(sessions.write(seed))
    sessions.done.set()
    await sequencing
    log = await reading
    logged.set_result(len(log))
    async with asyncio.timeout(TIMEOUT + SCALE):
        stream = await streaming

    rows = await database.owner.fetch(
        "SELECT job_id, event_count FROM jobs.job_progress WHERE tenant_id = $1", tenant
    )
    expected = {row["job_id"]: list(range(1, row["event_count"] + 1)) for row in rows}
    assert numbers_by_job(log) == expected
    positions = [event.position for event in log]
    assert positions == sorted(set(positions))
    assert [event.position for event in stream] == positions
    assert len(log) >= WRITERS * EVENTS_PER_WRITER
    assert sessions.kills > 0
