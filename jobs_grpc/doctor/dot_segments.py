"""Finds devices and jobs whose IDs REST clients normalize to the path of another resource."""

import asyncio

import asyncpg

from jobs_grpc.config import Config
from jobs_grpc.db import schema
from jobs_grpc.doctor.connection import DATABASE_ERRORS, ConnectError, connect, not_examined
from jobs_grpc.doctor.finding import Finding, Status

_CHECK = "ids"

# Seconds for all IDs. PostgreSQL examines a million in about a second, those with a period in two.
_TIMEOUT = 8.0

_MAX_NAMED = 5

_PROBLEM = 'IDs with a segment "." or "..", whose REST paths clients normalize to other paths'
_REMEDY = "give these devices other IDs, delete these jobs, or use gRPC for them"


async def check_dot_segments(config: Config) -> list[Finding]:
    """Name devices and jobs that were stored before their IDs were refused, or by the platform."""
    owner_url = config.maintenance.owner_database_url
    if owner_url is None:
        return [Finding(_CHECK, Status.SKIPPED, "needs JOBS_OWNER_DATABASE_URL")]
    try:
        async with (
            connect(owner_url, config) as connection,
            asyncio.timeout(_TIMEOUT),
            connection.transaction(readonly=True),
        ):
            found = await _find(connection)
    except TimeoutError:
        detail = f"not all IDs could be examined in {_TIMEOUT:.0f} s"
        remedy = "as the owner, run: SELECT * FROM public.device_state WHERE"
        return [
            Finding(_CHECK, Status.WARNING, detail, f"{remedy} jobs.has_dot_segment(device_id);")
        ]
    except (ConnectError, *DATABASE_ERRORS) as e:
        return [not_examined(_CHECK, e)]
    if not found:
        return [Finding(_CHECK, Status.OK, "no ID has a segment that REST clients normalize")]
    names = [f"{kind} {id_!r} of tenant {tenant}" for kind, tenant, id_ in found[:_MAX_NAMED]]
    more = ", and more" if len(found) > _MAX_NAMED else ""
    return [Finding(_CHECK, Status.WARNING, f"{_PROBLEM}: {', '.join(names)}{more}", _REMEDY)]


async def _find(connection: asyncpg.Connection) -> list[asyncpg.Record]:
    sql = schema.read_sql("checks/doctor/dot_segments.sql")
    if not await connection.fetchval("SELECT row_security_active('public.device_state')"):
        return await connection.fetch(sql, None)
    # The platform's table shows its owner the rows of one tenant at a time.
    found: list[asyncpg.Record] = []
    tenants = "SELECT tenant_id FROM jobs.devices UNION SELECT tenant_id FROM jobs.jobs ORDER BY 1"
    for [tenant] in await connection.fetch(tenants):
        await connection.execute("SELECT set_config('app.tenant_id', $1, true)", tenant)
        found += await connection.fetch(sql, tenant)
        if len(found) > _MAX_NAMED:
            break
    return found
