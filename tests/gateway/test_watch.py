"""GET /customer/jobs/{job_id}:watch: WatchJob as Server-Sent Events."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from tests.gateway.support import RestClient, assert_error
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


@pytest.mark.usefixtures("job")
async def test_watch_sends_each_state_until_the_job_is_finished(rest: RestClient) -> None:
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


async def test_watch_is_rejected_when_the_job_does_not_exist(rest: RestClient) -> None:
    response = await rest.send("GET", WATCH)
    assert_error(response, 404, "NOT_FOUND", "JOB_NOT_FOUND")

    response = await rest.http.get(WATCH)
    assert_error(response, 401, "UNAUTHENTICATED", "TENANT_REQUIRED")


@pytest.mark.usefixtures("job")
async def test_head_returns_the_headers_of_a_watch(rest: RestClient) -> None:
    response = await rest.send("HEAD", WATCH)

    assert response.status_code == 200
    assert response.headers["content-type"] == "text/event-stream"
