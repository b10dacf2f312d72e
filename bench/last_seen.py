"""Measure what storing last seen costs: 100,000 devices that poll 2,000 times a second.

Run by `python -m bench.last_seen`. The calls themselves are left out: devices are only marked, and
stored as the server does it. The first round, in which each device gets its row, is not measured.
"""

import argparse
import asyncio
import random
import time
from pathlib import Path

import asyncpg

from bench.postgres import running_postgres, temporary_folder
from bench.process import postgres_cpu_time
from jobs_grpc.config import Config
from jobs_grpc.db.database import Database
from jobs_grpc.db.last_seen import LastSeen
from jobs_grpc.db.migrate import RequestRole, migrate

_TENANT = "acme"
_PER_SECOND = 2_000
_TICK = 0.01
_WAL = "SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0')::float8"


def main() -> None:
    """Measure, and print the figures."""
    parser = argparse.ArgumentParser(prog="bench.last_seen", description=__doc__)
    parser.add_argument("--devices", type=int, default=100_000, help="devices that poll [100000]")
    parser.add_argument("--seconds", type=float, default=120, help="time to measure [120]")
    parser.add_argument("--interval", type=float, default=30, help="JOBS_LAST_SEEN_INTERVAL [30]")
    args = parser.parse_args()
    with (
        temporary_folder() as folder,
        running_postgres(folder / "data", "max_wal_size=4GB") as cluster,
    ):
        owner_dsn = cluster.dsn("postgres")
        request_dsn = cluster.dsn("postgres", RequestRole().name)
        asyncio.run(_measure(args, folder, owner_dsn, request_dsn))


async def _measure(
    args: argparse.Namespace, folder: Path, owner_dsn: str, request_dsn: str
) -> None:
    await migrate(owner_dsn, RequestRole())
    devices = [f"device-{number:07}" for number in range(args.devices)]
    owner = await asyncpg.connect(owner_dsn)
    await owner.execute(
        "INSERT INTO public.device_state (tenant_id, device_id) SELECT $1, unnest($2::text[])",
        _TENANT,
        devices,
    )
    config = Config.from_env(
        {"JOBS_DATABASE_URL": request_dsn, "JOBS_LAST_SEEN_INTERVAL": f"{args.interval}"}
    )
    database = Database(config)
    await database.check()
    last_seen = LastSeen(config, database)

    started = time.process_time()
    for device in devices:
        last_seen.mark(_TENANT, device)
    mark_seconds = (time.process_time() - started) / len(devices)
    started = time.monotonic()
    await last_seen._store()
    first_seconds = time.monotonic() - started
    # Later, devices poll in another order than that of their rows.
    for statement in ("VACUUM ANALYZE jobs.devices", "CHECKPOINT"):
        await owner.execute(statement)

    random.Random(1).shuffle(devices)  # noqa: S311 - the order in which they poll
    polls = asyncio.create_task(_poll(last_seen, devices, marks=False))
    idle_process, idle_postgres, _, _ = await _use(owner, folder, min(20.0, args.seconds))
    polls.cancel()
    polls = asyncio.create_task(_poll(last_seen, devices, marks=True))
    storing = asyncio.create_task(last_seen.run())
    await asyncio.sleep(args.interval)  # Until the first marks are stored.
    process, postgres, wal, stored = await _use(owner, folder, args.seconds)
    hot = await owner.fetchval(
        "SELECT n_tup_hot_upd::float8 / nullif(n_tup_upd, 0) FROM pg_stat_user_tables"
        " WHERE schemaname = 'jobs' AND relname = 'devices'"
    )
    polls.cancel()
    storing.cancel()
    await asyncio.wait({storing})
    await last_seen.close(10)
    await owner.close()
    await database.close()

    print(f"mark: {mark_seconds * 1e6:.2f} µs; first times of all devices: {first_seconds:.2f} s")
    print(f"server: {(process - idle_process) * 100:.2f} % of a core")
    print(f"PostgreSQL: {(postgres - idle_postgres) * 100:.2f} % of a core")
    print(f"WAL: {wal * 86400 / 1e9:.1f} GB a day; stored: {stored:.0f} times a second")
    print(f"HOT updates: {(hot or 0) * 100:.0f} %; dropped: {last_seen.dropped}")


async def _poll(last_seen: LastSeen, devices: list[str], *, marks: bool) -> None:
    started, number = time.monotonic(), 0
    while True:
        await asyncio.sleep(_TICK)
        due = int((time.monotonic() - started) * _PER_SECOND)
        while number < due:
            if marks:
                last_seen.mark(_TENANT, devices[number % len(devices)])
            number += 1


async def _use(
    owner: asyncpg.Connection, folder: Path, seconds: float
) -> tuple[float, float, float, float]:
    """CPU of this process and of PostgreSQL, bytes of WAL and updates, each per second."""

    async def read() -> tuple[float, float, float, float, float]:
        await owner.execute("SELECT pg_stat_force_next_flush()")
        updates = await owner.fetchval(
            "SELECT n_tup_upd::float8 FROM pg_stat_user_tables"
            " WHERE schemaname = 'jobs' AND relname = 'devices'"
        )
        return (
            time.monotonic(),
            time.process_time(),
            postgres_cpu_time(folder),
            await owner.fetchval(_WAL),
            updates,
        )

    before = await read()
    await asyncio.sleep(seconds)
    after = await read()
    elapsed, *used = (b - a for a, b in zip(before, after, strict=True))
    process, postgres, wal, updates = (value / elapsed for value in used)
    return process, postgres, wal, updates


if __name__ == "__main__":
    main()
