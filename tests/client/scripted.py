"""Clients of a server with scripted answers, which reconnect quickly."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from jobs_grpc.client import EventsClient, JobsClient, RetryPolicy
from tests.support.scripted_server import ScriptedServer, running_scripted_server

QUICK = RetryPolicy(first_delay=0.02, max_delay=0.2, reconnect_within=0.2)


@asynccontextmanager
async def scripted_jobs(
    options: Mapping[str, Any] | None = None, /, **answers: Any
) -> AsyncIterator[tuple[ScriptedServer, JobsClient]]:
    """Run a server with the answers of each method, and a client with these options."""
    async with (
        running_scripted_server(**answers) as server,
        JobsClient(server.address, **{"tenant": "t", "retry": QUICK, **(options or {})}) as jobs,
    ):
        yield server, jobs


@asynccontextmanager
async def scripted_events(**answers: Any) -> AsyncIterator[tuple[ScriptedServer, EventsClient]]:
    """Run a server with the answers of each method, and a client of events."""
    async with (
        running_scripted_server(**answers) as server,
        EventsClient(server.address, tenant="demo", retry=QUICK) as events,
    ):
        yield server, events
