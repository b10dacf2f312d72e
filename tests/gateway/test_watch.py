"""GET /customer/jobs/{job_id}:watch: WatchJob as Server-Sent Events."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import httpx

from tests.gateway.support import Gateway, RestClient, assert_error, running_gateway
from tests.support.database import Database
from tests.support.server import reserved_address, running_server
from tests.support.waiting import TIMEOUT

WATCH = "/customer/jobs/a:watch"


async def events(response: httpx.Response) -> AsyncIterator[dict[str, Any]]:
    """Yield the events of a response: `id`, `event` and the decoded `data`."""
    event: dict[str, Any] = {}
    async with asyncio.timeout(TIMEOUT):
        async for line in response.aiter_lines():
            name, _, value = line.partition(": ")
            if name in ("id", "event"):
                event[name] = value
            elif name == "data":
                event[name] = json.loads(value)
            elif not line and event:
                yield event
                event = {}


async def test_watch_sends_each_state_until_the_job_is_finished(
    rest: RestClient, database: Database
) -> None:
    await database.add_devices(rest.tenant, 1)
    await rest.create(job_id="a", target_all=True)
    headers = {"X-Tenant-Id": rest.tenant}

    async with rest.http.stream("GET", WATCH, headers=headers) as response:
        assert response.headers["content-type"] == "text/event-stream"
        assert response.headers["cache-control"] == "no-store"
        received = []
        async for event in events(response):
            received.append(event)
            if event["data"]["status"] == "IN_PROGRESS":
                await rest.as_device("d00001", "PATCH", "/a", {"status": "SUCCEEDED"})

    (listed,) = await rest.get()
    assert [event["data"]["status"] for event in received] == ["IN_PROGRESS", "COMPLETED"]
    assert received[-1]["data"].items() >= listed.items()
    assert "executions" not in received[-1]["data"]


async def test_watch_answers_204_when_the_client_has_the_state_of_a_finished_job(
    rest: RestClient, database: Database
) -> None:
    await database.add_devices(rest.tenant, 1)
    await rest.create(job_id="a", target_all=True)
    await rest.send("DELETE", "/customer/jobs/a")
    response = await rest.send("GET", WATCH)
    (event,) = [event async for event in events(response)]
    assert event["data"]["status"] == "CANCELED"

    again = await rest.send("GET", WATCH, headers=[("Last-Event-ID", event["id"])])
    other = await rest.send("GET", WATCH, headers=[("Last-Event-ID", "other")])

    assert again.status_code == 204
    assert [event async for event in events(other)] == [event]


async def test_watch_is_rejected_when_the_job_does_not_exist(rest: RestClient) -> None:
    response = await rest.send("GET", WATCH)
    assert_error(response, 404, "NOT_FOUND", "JOB_NOT_FOUND")

    response = await rest.http.get(WATCH)
    assert_error(response, 401, "UNAUTHENTICATED", "TENANT_REQUIRED")


async def test_head_returns_the_headers_of_a_watch(rest: RestClient, database: Database) -> None:
    await database.add_devices(rest.tenant, 1)
    await rest.create(job_id="a", target_all=True)

    response = await rest.send("HEAD", WATCH)

    assert response.status_code == 200
    assert response.headers["content-type"] == "text/event-stream"


async def test_watch_survives_a_restart_of_the_server(
    gateway_binary: Path, database: Database, tenant: str
) -> None:
    await database.add_devices(tenant, 1)
    headers = {"X-Tenant-Id": tenant}
    async with AsyncExitStack() as stack:
        address = stack.enter_context(reserved_address())
        first = AsyncExitStack()
        await first.enter_async_context(
            running_server(database.request_dsn, JOBS_LISTEN=address, JOBS_SHUTDOWN_GRACE="0")
        )
        gateway = await stack.enter_async_context(running_gateway(gateway_binary, address))
        http = await stack.enter_async_context(
            httpx.AsyncClient(base_url=gateway.url, timeout=TIMEOUT)
        )
        created = await RestClient(http, tenant).create(job_id="a", target_all=True)
        assert created.status_code == 201
        stream = http.stream("GET", WATCH, headers=headers)
        received = events(await stack.enter_async_context(stream))
        assert (await anext(received))["data"]["status"] == "IN_PROGRESS"

        await first.aclose()
        async with running_server(database.request_dsn, JOBS_LISTEN=address) as server:
            await server.operator(tenant).cancel("a")
            statuses = [event["data"]["status"] async for event in received]

    assert statuses == ["CANCELED"]


async def test_watch_ends_when_the_gateway_stops(
    gateway: Gateway, rest: RestClient, database: Database, gateway_binary: Path, server: Any
) -> None:
    await database.add_devices(rest.tenant, 1)
    await rest.create(job_id="a", target_all=True)
    async with (
        running_gateway(gateway_binary, server.address) as stopping,
        httpx.AsyncClient(base_url=stopping.url, timeout=TIMEOUT) as http,
        http.stream("GET", WATCH, headers={"X-Tenant-Id": rest.tenant}) as response,
    ):
        received = events(response)
        await anext(received)

        stopping.process.terminate()

        assert [event async for event in received] == []
        await stopping.wait_for_log("stopped")
