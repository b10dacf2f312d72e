"""Devices that join continuous jobs while two servers race, lose transactions, and are killed."""

import asyncio
from collections.abc import Sequence
from random import Random
from typing import Any, cast

import asyncpg

from jobs_grpc.db.database import Row
from jobs_grpc.db.store import Store
from jobs_grpc.errors import DatabaseUnavailable, LockTimeout
from jobs_grpc.maintenance import joins as maintenance
from jobs_grpc.maintenance.joins import Joins
from tests.machine.machine import Machine
from tests.model import joins
from tests.model.tenant import Call
from tests.support.database import Database

_SERVERS = 2
_FAILURES = 0.15
"""How many transactions are rolled back, and after how many others the server is killed."""

_CHANGED = """
    SELECT DISTINCT unnest(device_ids) AS device_id FROM jobs.device_changes WHERE tenant_id = $1
"""
_NOTES = """
    SELECT tenant_id, min(noted_at) AS due_at FROM jobs.device_changes
    WHERE tenant_id = $1 GROUP BY tenant_id
"""
_SCANS = """
    SELECT tenant_id, job_id, scan_due_at AS due_at FROM jobs.continuous_jobs
    WHERE tenant_id = $1 AND scan_due_at <= jobs.now()
"""


async def join(m: Machine) -> None:
    """Let devices join a job, mostly a continuous one, in one call."""
    continuous = [job for job in m.state.jobs if job.target is not None]
    job_id = (m.choice(continuous) if continuous else m.job()).job_id
    arguments: dict[str, Any] = {"device_ids": None, "after": "", "last": None}
    row, count = await m.both(
        Call(joins.join, job_id),
        m.service.store.join_devices(
            m.tenant, job_id=job_id, max_targets=1_000_000, wait_ms=60_000, **arguments
        ),
    )
    assert (None if row["has_ended"] else row["joined_count"]) == count


async def join_changed(m: Machine) -> None:
    """Let the devices join that changed. Each has a note."""
    noted = {row["device_id"] for row in await m.service.database.owner.fetch(_CHANGED, m.tenant)}
    assert m.changed_devices <= noted, "a change was missed"
    m.changed_devices.clear()
    await m.both(Call(joins.join_changed, noted), _Servers(m).process_notes())


async def full_scan(m: Machine) -> None:
    """Let all devices join, in ranges."""
    size = maintenance.DEVICES_PER_RANGE = m.random.choice([1, 2, 3])
    await m.service.database.owner.execute("SELECT jobs.rescan_jobs($1, NULL)", m.tenant)
    await m.both(Call(joins.full_scan, size), _Servers(m).scan())


class _Servers:
    """Servers that do the same work at the same time."""

    def __init__(self, m: Machine) -> None:
        self._database = m.service.database
        self._tenant = m.tenant
        self._reading = asyncio.Lock()
        self._servers = [self._server(Random(m.random.random())) for _ in range(_SERVERS)]  # noqa: S311

    def _server(self, random: Random) -> Joins:
        store = Store(cast("Any", _FailingDatabase(self._database, random)))
        return Joins(self._fetch, store, max_targets=1_000_000, interval=900, settle=0)

    async def process_notes(self) -> None:
        await asyncio.gather(*(self._repeat(_NOTES, each.changes.run) for each in self._servers))

    async def scan(self) -> None:
        scans = [lambda each=each: each.scans.run(10) for each in self._servers]
        await asyncio.gather(*(self._repeat(_SCANS, scan) for scan in scans))

    async def _repeat(self, left: str, run: Any) -> None:
        while await self._rows(left):
            await run()

    async def _fetch(self, sql: str, *args: object) -> Sequence[Row]:
        """Search only this tenant: the database also has those of earlier sequences."""
        if "scans_due" in sql:
            return await self._rows(_SCANS)
        is_first = not args[-1]
        return await self._rows(_NOTES) if is_first else []

    async def _rows(self, sql: str) -> Sequence[Row]:
        async with self._reading:
            return cast("Sequence[Row]", await self._database.owner.fetch(sql, self._tenant))


class _FailingDatabase:
    """Runs statements as jobs_grpc.db.database does; some fail, with and without effect."""

    is_distributed = False

    def __init__(self, database: Database, random: Random) -> None:
        self._database, self._random = database, random

    async def fetch(self, sql: str, *args: object) -> Sequence[Row]:
        fate = self._random.random()
        async with self._database.request_sessions.acquire() as connection:
            transaction = connection.transaction()
            await transaction.start()
            try:
                rows = await connection.fetch(sql, *args)
            except asyncpg.LockNotAvailableError:
                await transaction.rollback()
                raise LockTimeout from None
            if fate < _FAILURES:
                await transaction.rollback()
                raise DatabaseUnavailable
            await transaction.commit()
        if fate > 1 - _FAILURES:
            raise DatabaseUnavailable
        return cast("Sequence[Row]", rows)
