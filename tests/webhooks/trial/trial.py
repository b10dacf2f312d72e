"""One trial: events for webhooks, two dispatcher processes, and faults."""

import asyncio
import os
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import asyncpg

from jobs_grpc.db.migrate import RequestRole, migrate
from jobs_grpc.dev.embedded_postgres.account import unprivileged_account
from jobs_grpc.dev.embedded_postgres.binaries import find_binaries
from jobs_grpc.dev.embedded_postgres.server import Server as PostgresServer
from tests.chaos.system import is_running
from tests.support.database import Database
from tests.support.endpoints import OK, Endpoint, Request, Respond, response, running_endpoint
from tests.support.event_rows import queue_event
from tests.support.waiting import wait_until
from tests.support.webhooks import sequence
from tests.webhooks.support import add_webhook

_TENANTS = ("alpha", "beta", "gamma")
_WEBHOOKS_PER_TENANT = 3
_EVENT_INTERVAL = 0.05
# The endpoint fails for this part of the requests.
_FAILURES = 0.002
# The rest of the events, and retries.
_DRAIN_SECONDS = 120.0
_LEASE_SECONDS = 30.0
_FREEZE_SECONDS = 2 * _LEASE_SECONDS


@dataclass(frozen=True)
class Faults:
    """How many faults of each kind to inject."""

    kills: int = 0
    """A dispatcher process is killed and started again."""
    freezes: int = 0
    """A dispatcher process gets no CPU time for longer than a lease."""
    restarts: int = 0
    """PostgreSQL stops without a checkpoint and starts again."""


@dataclass
class Outcome:
    """What the endpoint received, compared with the log of events."""

    deliveries: int = 0
    failures: int = 0
    """Requests that the endpoint answered with 503."""
    lost: int = 0
    duplicates: int = 0
    """Events that the endpoint accepted more than once."""
    most_duplicates: int = 0
    """Of one webhook."""
    out_of_order: int = 0
    """Requests for an event that is before one that the endpoint had accepted."""
    broken_chains: int = 0
    """Events whose previous_position is not the event before."""
    seconds: float = 0.0

    def __str__(self) -> str:
        return (
            f"{self.deliveries} deliveries in {self.seconds:.0f} s, {self.failures} failures,"
            f" {self.lost} lost, {self.duplicates} duplicates (at most {self.most_duplicates} of a"
            f" webhook), {self.out_of_order} out of order, {self.broken_chains} broken chains"
        )


@dataclass
class _Received:
    """The requests for one webhook that the endpoint accepted."""

    positions: list[int] = field(default_factory=list)
    previous: dict[int, int] = field(default_factory=dict)
    out_of_order: int = 0


class _System:
    """PostgreSQL and the dispatchers."""

    def __init__(self, folder: Path) -> None:
        self._sockets = folder / "sockets"
        self._sockets.mkdir()
        account = unprivileged_account()
        if account:
            for path in (folder, self._sockets):
                os.chown(path, account.pw_uid, account.pw_gid)
        self._pgdata = folder / "pgdata"
        self._postgres = PostgresServer(find_binaries(folder, account), self._pgdata, account)
        self.owner_dsn = f"postgresql://postgres@/jobs?host={self._sockets}"
        self.dispatchers: list[asyncio.subprocess.Process] = []
        self.port = 0

    async def start_postgres(self) -> None:
        log = self._sockets / "postgresql.log"
        await asyncio.to_thread(self._postgres.start, self._sockets, log, ("max_connections=40",))

    async def crash_postgres(self) -> None:
        pid = int((self._pgdata / "postmaster.pid").read_text().split()[0])
        os.kill(pid, signal.SIGQUIT)

        async def stopped() -> bool:
            return not is_running(pid)

        await wait_until(stopped)

    async def prepare(self) -> None:
        await asyncio.to_thread(self._postgres.init)
        await self.start_postgres()
        template = self.owner_dsn.replace("/jobs?", "/postgres?")
        connection = await asyncpg.connect(template)
        await connection.execute("CREATE DATABASE jobs")
        await connection.close()
        await migrate(self.owner_dsn, RequestRole("jobs_request", "secret"))

    async def start_dispatcher(self) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.webhooks.trial.dispatcher_process"),
            *(self.owner_dsn, str(self.port)),
            start_new_session=True,
        )

    async def kill_dispatcher(self, number: int) -> None:
        process = self.dispatchers[number]
        process.kill()
        await process.wait()
        self.dispatchers[number] = await self.start_dispatcher()

    async def end_leases(self) -> None:
        """Kill all dispatchers, and start others after the leases."""
        for process in self.dispatchers:
            process.kill()
            await process.wait()
        owner = await asyncpg.connect(self.owner_dsn)
        await Database(self.owner_dsn, "", owner).pass_time(_LEASE_SECONDS)
        await owner.close()
        self.dispatchers = [await self.start_dispatcher() for _ in self.dispatchers]

    async def close(self) -> None:
        for process in self.dispatchers:
            process.kill()
            await process.wait()
        await asyncio.to_thread(self._postgres.stop)


async def run_trial(
    folder: Path,
    faults: Faults,
    *,
    seed: int,
    interval: tuple[float, float] = (1.0, 3.0),
    progress: Callable[[str], None] = lambda _: None,
) -> Outcome:
    """Run one trial in `folder`, which PostgreSQL's account must be able to reach.

    Between two faults, events are delivered for a time of this `interval`, in seconds.
    """
    rng = random.Random(seed)  # noqa: S311
    started = time.monotonic()
    async with _running_system(folder) as system, running_endpoint(None) as endpoint:
        received: dict[str, _Received] = {}
        outcome = Outcome()
        endpoint.respond = _recorder(endpoint, received, outcome, rng)
        system.port = endpoint.port
        webhooks = await _add_webhooks(system, endpoint)
        system.dispatchers += [await system.start_dispatcher() for _ in range(2)]
        stop = asyncio.Event()
        writing = asyncio.create_task(_write_events(system, stop))

        async def begun() -> bool:
            return bool(received)

        await wait_until(begun)
        kinds = (
            ["kill"] * faults.kills + ["freeze"] * faults.freezes + ["restart"] * faults.restarts
        )
        rng.shuffle(kinds)
        for number, kind in enumerate(kinds, start=1):
            await asyncio.sleep(rng.uniform(*interval))
            progress(f"{number}/{len(kinds)} {kind}")
            await _inject(system, kind, rng)
        await asyncio.sleep(rng.uniform(*interval))
        stop.set()
        await writing
        progress("waiting for the rest")
        await system.end_leases()
        await _wait_until_delivered(system, webhooks)
        await _compare(system, webhooks, received, outcome)
    outcome.seconds = time.monotonic() - started
    return outcome


@asynccontextmanager
async def _running_system(folder: Path) -> AsyncIterator[_System]:
    system = _System(folder)
    async with AsyncExitStack() as stack:
        stack.push_async_callback(system.close)
        await system.prepare()
        yield system


def _recorder(
    endpoint: Endpoint, received: dict[str, _Received], outcome: Outcome, rng: random.Random
) -> Respond:
    async def respond(request: Request) -> bytes:
        endpoint.requests.clear()
        # Some responses take a while, so that faults hit requests.
        await asyncio.sleep(rng.choice((0, 0, 0, 0.05)))
        of_webhook = received.setdefault(request.line.split()[1], _Received())
        position = request.position
        if of_webhook.positions and position < max(of_webhook.positions[-50:]):
            of_webhook.out_of_order += 1
        if rng.random() < _FAILURES:
            outcome.failures += 1
            return response(503)
        of_webhook.positions.append(position)
        of_webhook.previous[position] = int(request.event["data"]["previous_position"])
        return OK

    return respond


async def _add_webhooks(system: _System, endpoint: Endpoint) -> dict[str, str]:
    """Return the tenants by the path of the webhook."""
    owner = await asyncpg.connect(system.owner_dsn)
    database = Database(system.owner_dsn, "", owner)
    webhooks = {}
    for tenant in _TENANTS:
        for number in range(_WEBHOOKS_PER_TENANT):
            path = f"/{tenant}/{number}"
            await add_webhook(database, tenant, endpoint.url(path), works=True)
            webhooks[path] = tenant
    await owner.close()
    return webhooks


async def _write_events(system: _System, stop: asyncio.Event) -> None:
    """Add events of all tenants; while the database is unavailable, none."""
    connection: asyncpg.Connection | None = None
    while not stop.is_set():
        try:
            if connection is None:
                connection = await asyncpg.connect(system.owner_dsn)
            for tenant in _TENANTS:
                await queue_event(connection, tenant)
                await sequence(connection, tenant)
        except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
            if connection:
                connection.terminate()
            connection = None
        await asyncio.sleep(_EVENT_INTERVAL)
    if connection:
        await connection.close()


async def _inject(system: _System, kind: str, rng: random.Random) -> None:
    number = rng.randrange(2)
    match kind:
        case "kill":
            await system.kill_dispatcher(number)
        case "freeze":
            process = system.dispatchers[number]
            process.send_signal(signal.SIGSTOP)
            await asyncio.sleep(_FREEZE_SECONDS)
            process.send_signal(signal.SIGCONT)
        case "restart":
            await system.crash_postgres()
            await asyncio.sleep(rng.uniform(0, 2))
            await system.start_postgres()


async def _wait_until_delivered(system: _System, webhooks: dict[str, str]) -> None:
    owner = await asyncpg.connect(system.owner_dsn)
    idle = "SELECT count(*) FROM jobs.webhooks WHERE due_at IS NULL"

    async def all_idle() -> bool:
        return bool(await owner.fetchval(idle) == len(webhooks))

    await wait_until(all_idle, _DRAIN_SECONDS)
    await owner.close()


async def _compare(
    system: _System, webhooks: dict[str, str], received: dict[str, _Received], outcome: Outcome
) -> None:
    owner = await asyncpg.connect(system.owner_dsn)
    for path, tenant in webhooks.items():
        rows = await owner.fetch(
            "SELECT position FROM jobs.events WHERE tenant_id = $1 ORDER BY position", tenant
        )
        expected = [row["position"] for row in rows]
        of_webhook = received.get(path, _Received())
        counts = Counter(of_webhook.positions)
        duplicates = counts.total() - len(counts)
        outcome.deliveries += counts.total()
        outcome.lost += len(set(expected) - set(counts))
        outcome.duplicates += duplicates
        outcome.most_duplicates = max(outcome.most_duplicates, duplicates)
        outcome.out_of_order += of_webhook.out_of_order
        chain = dict(zip(expected, [0, *expected], strict=False))
        outcome.broken_chains += sum(
            chain.get(position) != previous for position, previous in of_webhook.previous.items()
        )
    await owner.close()
