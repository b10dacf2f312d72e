"""REST routes of events and webhooks, in front of a server with scripted responses."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from fleet.jobs.v1 import events_pb2 as pb
from fleet.jobs.v1 import jobs_pb2
from google.protobuf.timestamp_pb2 import Timestamp

from tests.gateway.support import RestClient, assert_error, running_gateway
from tests.gateway.test_watch import events
from tests.support.scripted_server import Refusal, ScriptedServer, running_scripted_server
from tests.support.waiting import TIMEOUT

POSITION = 1_795_964_737_123_456
TIME = Timestamp(seconds=1_795_964_737)
EVENT = pb.Event(position=POSITION, type="job.paused", time=TIME, job_id="a", reason="too hot")
CALLER = jobs_pb2.GetCallerResponse(tenant_id="demo")


@pytest.fixture(scope="module")
async def scripted_rest(gateway_binary: Path) -> AsyncIterator[tuple[ScriptedServer, RestClient]]:
    async with (
        running_scripted_server(GetCaller=CALLER) as server,
        running_gateway(gateway_binary, server.address) as gateway,
        httpx.AsyncClient(base_url=gateway.url, timeout=TIMEOUT) as http,
    ):
        yield server, RestClient(http, "demo")


@pytest.fixture
def scripted(scripted_rest: tuple[ScriptedServer, RestClient]) -> ScriptedServer:
    """The scripted server, which has got no requests yet."""
    server, _ = scripted_rest
    server.requests.clear()
    return server


@pytest.fixture
def client(scripted_rest: tuple[ScriptedServer, RestClient]) -> RestClient:
    return scripted_rest[1]


async def test_events_have_positions_as_strings(
    scripted: ScriptedServer, client: RestClient
) -> None:
    response = pb.ListEventsResponse(events=[EVENT], position=POSITION + 1, has_more=True)
    scripted.answers["ListEvents"] = [response]

    path = "/customer/events?after_position=7&types=job.paused&types=job.resumed&job_id=a"
    page = (await client.send("GET", path)).json()

    (event,) = page["events"]
    assert (page["position"], page["has_more"]) == (str(POSITION + 1), True)
    assert (
        event.items()
        >= {
            "position": str(POSITION),
            "time": "2026-11-29T15:05:37.000000+00:00",
            "reason": "too hot",
            "user_id": None,
            "stage": None,
        }.items()
    )
    types = ["job.paused", "job.resumed"]
    assert scripted.requests == [pb.ListEventsRequest(after_position=7, types=types, job_id="a")]


async def test_history_of_a_job_is_an_array_with_the_next_page_in_headers(
    scripted: ScriptedServer, client: RestClient
) -> None:
    response = pb.ListJobEventsResponse(events=[EVENT], next_page_token="next")
    scripted.answers["ListJobEvents"] = [response]

    page = await client.send("GET", "/customer/jobs/a/events?newest_first=true&limit=1")

    assert [event["type"] for event in page.json()] == ["job.paused"]
    assert page.headers["x-next-page-token"] == "next"
    assert page.headers["link"] == (
        '</customer/jobs/a/events?limit=1&newest_first=true&page_token=next>; rel="next"'
    )
    assert scripted.requests == [pb.ListJobEventsRequest(job_id="a", newest_first=True, limit=1)]


@pytest.mark.parametrize("reason", ["EVENTS_PURGED", "POSITION_UNKNOWN"])
async def test_lost_positions_have_status_410(
    scripted: ScriptedServer, client: RestClient, reason: str
) -> None:
    lost = Refusal(grpc.StatusCode.OUT_OF_RANGE, reason)
    for method in ("ListEvents", "WatchEvents", "UpdateWebhook"):
        scripted.answers[method] = [lost]
    patch = {"update_mask": "position", "webhook": {"position": "1"}}

    for response in (
        await client.send("GET", "/customer/events?after_position=1"),
        await client.send("GET", "/customer/events:watch?after_position=1"),
        await client.send("PATCH", "/customer/webhooks/wh_1", patch),
    ):
        assert_error(response, 410, "OUT_OF_RANGE", reason)


async def test_stream_resumes_after_the_last_position(
    scripted: ScriptedServer, client: RestClient
) -> None:
    scripted.answers["WatchEvents"] = [
        pb.WatchEventsResponse(position=5),
        pb.WatchEventsResponse(events=[EVENT], position=POSITION + 1),
        Refusal(grpc.StatusCode.UNAVAILABLE, "SERVER_STOPPING"),
        Refusal(grpc.StatusCode.OUT_OF_RANGE, "EVENTS_PURGED"),
    ]
    headers = {"X-Tenant-Id": "demo", "Last-Event-ID": "4"}
    async with client.http.stream("GET", "/customer/events:watch", headers=headers) as response:
        assert response.headers["content-type"] == "text/event-stream"
        assert response.headers["cache-control"] == "no-store"
        received = [event async for event in events(response)]

    assert received[0] == {"event": "heartbeat", "id": "5", "data": {}}
    assert received[1]["id"] == received[1]["data"]["position"] == str(POSITION)
    assert (received[2]["event"], received[2]["data"]["reason"]) == ("failure", "EVENTS_PURGED")
    requests = [r for r in scripted.requests if isinstance(r, pb.WatchEventsRequest)]
    assert [request.after_position for request in requests] == [4, POSITION + 1]


@pytest.mark.usefixtures("job")
async def test_stream_of_the_service_has_each_change_once(rest: RestClient) -> None:
    headers = {"X-Tenant-Id": rest.tenant}
    path = "/customer/events:watch?after_position=0&types=job.created&types=job.paused"
    async with rest.http.stream("GET", path, headers=headers) as response:
        async for first in events(response):
            if first.get("event") != "heartbeat":
                break
    for verb in ("pause", "resume", "pause"):
        await rest.send("POST", f"/customer/jobs/a:{verb}", {})
    headers["Last-Event-ID"] = first["id"]
    async with rest.http.stream("GET", path, headers=headers) as response:
        received: list[dict[str, Any]] = []
        async for event in events(response):
            if event.get("event") != "heartbeat":
                received.append(event)
            if len(received) == 2:
                break

    history = (await rest.send("GET", "/customer/jobs/a/events")).json()
    assert first["data"]["type"] == "job.created"
    assert [event["data"] for event in received] == [
        event for event in history if event["type"] == "job.paused"
    ]
    assert history[1]["user_id"] == "olivia"
    page = (await rest.send("GET", "/customer/events?after_position=0")).json()
    assert page["events"] == history
    future = await rest.send("GET", f"/customer/events?after_position={2**53 - 1}")
    assert_error(future, 410, "OUT_OF_RANGE", "POSITION_UNKNOWN")
