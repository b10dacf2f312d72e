"""Fixtures: a bridge that speaks hawkBit's DDI API, for the tenant of the test."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest
from aiohttp import web

from examples.ddi_bridge import Bridge
from jobs_grpc.client import Connection
from tests.support.database import Database
from tests.support.server import Server, reserved_address, running_server

TARGET_KEY = "key"


@pytest.fixture(scope="module")
async def polling_server(database: Database) -> AsyncIterator[Server]:
    """A server whose devices poll each second: without its answer, SWUpdate polls every 45 s."""
    async with running_server(database.request_dsn, JOBS_POLL_AFTER="1") as server:
        yield server


@pytest.fixture
async def bridge_url(polling_server: Server, tenant: str) -> AsyncIterator[str]:
    """The URL of a bridge for the tenant, whose devices have tokens of TARGET_KEY."""
    async with AsyncExitStack() as stack:
        connection = await stack.enter_async_context(Connection(polling_server.address))
        runner = web.AppRunner(
            Bridge(connection, {tenant: {"target_key": TARGET_KEY}}).application()
        )
        await runner.setup()
        stack.push_async_callback(runner.cleanup)
        host, port = stack.enter_context(reserved_address()).split(":")
        await web.TCPSite(runner, host, int(port)).start()
        yield f"http://{host}:{port}"
