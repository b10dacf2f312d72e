"""Two calls that change the same rows, in an explicit order."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from tests.support.database import Database, job_lock_held, uncommitted

First = TypeVar("First")
Second = TypeVar("Second")


async def lock_in_order(
    database: Database,
    tenant: str,
    job_id: str,
    first: Coroutine[Any, Any, First],
    second: Coroutine[Any, Any, Second],
) -> tuple[asyncio.Task[First], asyncio.Task[Second]]:
    """Let two calls wait for a job's lock in this order, then release it. Return their tasks."""
    async with job_lock_held(database, tenant, job_id):
        first_task = asyncio.create_task(first)
        await database.wait_for_blocked_sessions(1)
        second_task = asyncio.create_task(second)
        await database.wait_for_blocked_sessions(2)
    return first_task, second_task


async def wait_for_commit(
    database: Database, call: Coroutine[Any, Any, First], sql: str, *args: object
) -> asyncio.Task[First]:
    """Let a call wait for a lock of a statement that commits then. Return the task of the call.

    The first argument of the statement is the tenant.
    """
    async with uncommitted(database, sql, *args):
        task = asyncio.create_task(call)
        await database.wait_for_blocked_sessions(1)
    return task
