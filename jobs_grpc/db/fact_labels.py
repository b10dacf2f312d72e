"""Finds labels of devices that selectors no longer match, because they look like facts."""

import asyncio

import asyncpg

from jobs_grpc.db import schema

_MAX_NAMED = 5

# Seconds for all labels. PostgreSQL examines those of a million devices in about two.
TIMEOUT = 8.0

REMEDY = "rename these labels: jobs-grpc devices label DEVICE NEW=VALUE KEY-"


async def describe_fact_labels(connection: asyncpg.Connection) -> str:
    """Name devices with labels that begin with "fact."; empty: there are none. For the owner.

    Raises TimeoutError after TIMEOUT.
    """
    async with asyncio.timeout(TIMEOUT):
        rows = await connection.fetch(schema.read_sql("checks/doctor/fact_labels.sql"))
    if not rows:
        return ""
    named = [f"{key} of device {device!r} of tenant {tenant}" for tenant, device, key in rows]
    more = ", and more" if len(rows) > _MAX_NAMED else ""
    return (
        "device labels that begin with `fact.` are no longer matched by selectors:"
        f" {', '.join(named[:_MAX_NAMED])}{more}"
    )
