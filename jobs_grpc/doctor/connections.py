"""Checks of connections: what PostgreSQL allows, and what the pool's connections do now."""

import asyncpg

from jobs_grpc.config import Config
from jobs_grpc.db import last_seen
from jobs_grpc.doctor.connection import fetch_one
from jobs_grpc.doctor.finding import Finding, Status
from jobs_grpc.maintenance import sweeper
from jobs_grpc.webhooks import dispatcher

# The readiness check has a connection of its own.
_CHECK_CONNECTIONS = 1

_POOL_REMEDY = (
    "raise JOBS_POOL_MAX_SIZE, or find what the statements wait for: SELECT pid, state,"
    " wait_event_type, now() - query_start, pg_blocking_pids(pid), query FROM pg_stat_activity"
    " WHERE usename = current_user;"
)


async def check_limits(connection: asyncpg.Connection, config: Config) -> list[Finding]:
    """Compare the connections that this server can open with what PostgreSQL allows."""
    workers = config.server.workers
    per_worker = config.pool.max_size + _CHECK_CONNECTIONS
    if config.maintenance.last_seen_interval:
        per_worker += last_seen.CONNECTIONS
    request = workers * per_worker
    needed = request
    if config.maintenance.owner_database_url:
        needed += sweeper.MAX_CONNECTIONS
        if config.events.webhook_keys_file:
            needed += dispatcher.MAX_CONNECTIONS
    row = await fetch_one(connection, "connections", request)
    limits = {
        "max_connections of PostgreSQL": (row["server_limit"], needed),
        "CONNECTION LIMIT of the request role": (row["role_limit"], request),
        "CONNECTION LIMIT of the database": (row["database_limit"], needed),
    }
    lower = f"or lower JOBS_POOL_MAX_SIZE ({config.pool.max_size}) or JOBS_WORKERS ({workers})"
    findings = [
        Finding(
            "connections",
            Status.ERROR,
            f"this server opens up to {count} connections; the {name} allows {limit}",
            f"raise the {name}, {lower}",
        )
        for name, (limit, count) in limits.items()
        if 0 <= limit < count
    ]
    if findings:
        return findings
    detail = (
        f"this server opens up to {needed} connections; others have {row['others']} open;"
        f" PostgreSQL allows {row['server_limit']}"
    )
    if needed + row["others"] > row["server_limit"]:
        remedy = f"raise max_connections of PostgreSQL, close connections of others, {lower}"
        return [Finding("connections", Status.WARNING, detail, remedy)]
    return [Finding("connections", Status.OK, detail)]


async def check_sessions(connection: asyncpg.Connection, config: Config) -> list[Finding]:
    """Report how many connections of the request role are busy, and for how long."""
    row = await fetch_one(connection, "sessions")
    detail = f"connections of the request role: {row['open']} open, {row['busy']} busy"
    if row["busy"]:
        detail += f", {row['blocked']} wait for a lock, longest: {row['longest_seconds']:.0f} s"
    if row["busy"] >= config.server.workers * config.pool.max_size:
        return [Finding("pool", Status.WARNING, f"{detail}; further calls wait", _POOL_REMEDY)]
    return [Finding("pool", Status.OK, detail)]
