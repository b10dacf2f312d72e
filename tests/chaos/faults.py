"""The faults of a trial. Each is injected, lasts for a moment, and ends."""

import asyncio
import contextlib
import os
import random
import signal
from collections.abc import Awaitable, Callable

import asyncpg

from tests.harness.system import Process, System, is_running
from tests.support.waiting import wait_until

Fault = Callable[[System, random.Random], Awaitable[None]]

PAST_LEASE = "servers frozen past the lease of a webhook"
_PAST_LEASE_SECONDS = 35.0
_REQUEST_BACKENDS = """
    SELECT pid FROM pg_stat_activity
    WHERE datname = 'jobs' AND usename = 'jobs_request' ORDER BY pid
"""


async def kill_server(system: System, rng: random.Random) -> None:
    """A server process is killed and started again."""
    await _kill_and_restart(system, rng.choice(system.servers), rng)


async def kill_gateway(system: System, rng: random.Random) -> None:
    """The gateway process is killed and started again."""
    await _kill_and_restart(system, system.gateway, rng)


async def restart_server(system: System, rng: random.Random) -> None:
    """A server is stopped as in a deployment, with SIGTERM, and started again."""
    await system.replace_server(rng.randrange(2))


async def freeze_server(system: System, rng: random.Random) -> None:
    """A server process gets no CPU time for a while."""
    await _freeze([rng.choice(system.servers).pid], system.pace * rng.uniform(1, 4))


async def freeze_server_past_lease(system: System, rng: random.Random) -> None:
    """A server process gets no CPU time for longer than it may deliver the events of a webhook."""
    system.ledger.done[PAST_LEASE] += 1
    await _freeze([rng.choice(system.servers).pid], _PAST_LEASE_SECONDS)


async def freeze_gateway(system: System, rng: random.Random) -> None:
    """The gateway process gets no CPU time for a while."""
    await _freeze([system.gateway.pid], system.pace * rng.uniform(1, 3))


async def freeze_backends(system: System, rng: random.Random) -> None:
    """Some of the database sessions of the servers get no CPU time for a while."""
    async with system.owner() as owner:
        pids = [row["pid"] for row in await owner.fetch(_REQUEST_BACKENDS)]
    if pids:
        await _freeze(rng.sample(pids, rng.randint(1, len(pids))), system.pace * rng.uniform(1, 7))


async def crash_postgres(system: System, rng: random.Random) -> None:
    """PostgreSQL stops without a checkpoint and recovers."""
    await system.crash_postgres()
    await asyncio.sleep(system.pace * rng.uniform(0, 2))
    await system.start_postgres()


async def terminate_backends(system: System, rng: random.Random) -> None:
    """All database sessions of the servers are terminated, several times."""
    for _ in range(rng.randint(1, 3)):
        async with system.owner() as owner:
            await owner.execute(f"SELECT pg_terminate_backend(pid) FROM ({_REQUEST_BACKENDS}) s")
        await asyncio.sleep(rng.uniform(0, 0.3))


async def cancel_statements(system: System, rng: random.Random) -> None:
    """The running statements of the servers are canceled, for a second."""
    loop = asyncio.get_running_loop()
    end = loop.time() + 1
    async with system.owner() as owner:
        while loop.time() < end:
            await owner.execute(
                "SELECT pg_cancel_backend(pid) FROM pg_stat_activity"
                " WHERE datname = 'jobs' AND pid <> pg_backend_pid() AND state = 'active'"
            )
            await asyncio.sleep(rng.uniform(0, 0.05))


async def make_read_only(system: System, rng: random.Random) -> None:
    """The database accepts no writes for a while, as after a failover to a replica."""
    async with system.owner() as owner:
        await owner.execute("ALTER SYSTEM SET default_transaction_read_only = on")
        await owner.execute("SELECT pg_reload_conf()")
    await asyncio.sleep(system.pace * rng.uniform(0.5, 3))
    async with system.owner() as owner:
        await owner.execute("SET default_transaction_read_only = off")
        await owner.execute("ALTER SYSTEM RESET default_transaction_read_only")
        await owner.execute("SELECT pg_reload_conf()")


async def fill_data_disk(system: System, rng: random.Random) -> None:
    """The file system of the tables has no space for a while, so no table can grow."""
    if system.disks:
        await asyncio.to_thread(system.disks.data.fill)
        try:
            await asyncio.sleep(system.pace * rng.uniform(1, 4))
        finally:
            await asyncio.to_thread(system.disks.data.free)


async def fill_wal_disk(system: System, rng: random.Random) -> None:
    """The file system of the write-ahead log has no space. PostgreSQL stops, and cannot recover."""
    if system.disks:
        pid = system.postgres_pid
        await asyncio.to_thread(system.disks.wal.fill)
        try:
            await _write_wal_until_stopped(system, pid)
            await asyncio.sleep(system.pace * rng.uniform(0, 2))
        finally:
            await asyncio.to_thread(system.disks.wal.free)
        await system.start_postgres()


async def _write_wal_until_stopped(system: System, pid: int) -> None:
    async def stopped() -> bool:
        with contextlib.suppress(OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
            async with system.owner() as owner:
                await owner.execute("SELECT pg_switch_wal()", timeout=1)
        return not is_running(pid)

    await wait_until(stopped)


FAULTS: tuple[Fault, ...] = (
    kill_server,
    kill_gateway,
    restart_server,
    freeze_server,
    freeze_gateway,
    freeze_backends,
    crash_postgres,
    terminate_backends,
    cancel_statements,
    make_read_only,
    fill_data_disk,
    fill_wal_disk,
)


async def _kill_and_restart(system: System, process: Process, rng: random.Random) -> None:
    await process.stop(signal.SIGKILL)
    await asyncio.sleep(rng.uniform(0, 1))
    await process.start()
    await system.wait_until_all_answer()  # The fault ends when the process has started.


async def _freeze(pids: list[int], seconds: float) -> None:
    try:
        _signal(pids, signal.SIGSTOP)
        await asyncio.sleep(seconds)
    finally:
        _signal(pids, signal.SIGCONT)


def _signal(pids: list[int], number: int) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):  # A database session may have ended.
            os.kill(pid, number)
