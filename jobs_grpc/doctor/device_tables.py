"""Checks of the device tables: who manages them, and what this service needs of them."""

import asyncpg

from jobs_grpc.config import Config
from jobs_grpc.doctor import schema
from jobs_grpc.doctor.connection import fetch_one
from jobs_grpc.doctor.finding import Finding, Status

_CHECK = "device-tables"

_OWN = "the service's own: calls register and delete devices, and change groups"
_PLATFORM = "managed by the platform: calls only read devices and groups"

_MISSING_INDEX = (
    "an index is missing, so ListDevices, ListGroups or GetDevice may read all rows of a tenant"
)


async def check_device_tables(connection: asyncpg.Connection, config: Config) -> list[Finding]:
    """Report who manages the tables, excess privileges on the platform's, and missing indexes."""
    if any(f.status != Status.OK for f in await schema.check_privileges(connection, config)):
        return [Finding(_CHECK, Status.SKIPPED, "needs the privileges of the request role")]
    tables = await fetch_one(connection, "device_tables")
    manager = _OWN if tables["is_own"] else _PLATFORM
    return [
        Finding(_CHECK, Status.OK, manager),
        *(
            _warning("the request role may write to the platform's tables", remedy)
            for remedy in tables["excess_privileges"]
        ),
        *(_warning(_MISSING_INDEX, remedy) for remedy in tables["missing_indexes"]),
    ]


def _warning(detail: str, remedy: str) -> Finding:
    return Finding(_CHECK, Status.WARNING, detail, f"as the owner of the tables, run: {remedy};")
