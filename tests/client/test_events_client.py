"""EventsClient: reading, following and resuming, and webhook calls, at a scripted server."""

import asyncio
from contextlib import aclosing
from datetime import UTC, datetime

import grpc
import pytest
from fleet.jobs.v1 import events_pb2 as pb
from google.protobuf.field_mask_pb2 import FieldMask

from jobs_grpc.client import EventReader, EventsClient, JobsClient, RetryPolicy, errors
from tests.client.scripted import scripted_events
from tests.support.database import Database
from tests.support.scripted_server import Answer, Refusal
from tests.support.server import reserved_address, running_server
from tests.support.waiting import TIMEOUT

UNAVAILABLE = Refusal(grpc.StatusCode.UNAVAILABLE)
TIME = datetime(2030, 1, 31, tzinfo=UTC)


def event(position: int) -> pb.Event:
    return pb.Event(position=position, type="job.paused", job_id="a")


def watched(*positions: int, position: int) -> pb.WatchEventsResponse:
    return pb.WatchEventsResponse(events=map(event, positions), position=position)


async def _append(stream: EventReader, received: list[int]) -> None:
    async for each in stream:
        assert stream.position == each.position
        received.append(each.position)


async def test_watch_continues_after_the_last_position_when_the_stream_breaks() -> None:
    answers: list[Answer] = [
        watched(position=10),
        UNAVAILABLE,
        watched(11, 12, position=15),
        Refusal(grpc.StatusCode.INTERNAL),  # how a proxy reports a reset
        UNAVAILABLE,
        watched(16, position=16),
        Refusal(grpc.StatusCode.OUT_OF_RANGE, "EVENTS_PURGED"),
    ]
    async with scripted_events(WatchEvents=answers) as (server, events):
        stream = events.watch_events(from_time=TIME, types=["job.paused"], job_id="a")
        received: list[int] = []
        with pytest.raises(errors.EventsPurged):
            await _append(stream, received)

    assert received == [11, 12, 16]
    assert stream.position == 16
    assert server.requests[0].from_time.ToDatetime(UTC) == TIME
    assert [r.after_position for r in server.requests[1:]] == [10, 15, 15]
    assert all((r.types, r.job_id) == (["job.paused"], "a") for r in server.requests)


async def test_watch_reports_the_position_of_heartbeats() -> None:
    answers = [watched(position=9), watched(12, position=12)]
    async with (
        scripted_events(WatchEvents=answers) as (s, events),
        aclosing(events.watch_events()) as stream,
    ):
        assert stream.position is None
        assert (await anext(stream)).position == 12
    assert not s.requests[0].HasField("start")


@pytest.mark.parametrize(
    ("reason", "error"),
    [("EVENTS_PURGED", errors.EventsPurged), ("POSITION_UNKNOWN", errors.PositionUnknown)],
)
async def test_lost_positions_are_errors(reason: str, error: type[errors.JobsError]) -> None:
    lost = Refusal(grpc.StatusCode.OUT_OF_RANGE, reason)
    async with scripted_events(WatchEvents=lost, ListEvents=lost) as (server, events):
        with pytest.raises(error):
            await anext(events.watch_events(after_position=1))
        with pytest.raises(error):
            await anext(events.list_events(after_position=1))
    assert server.calls == {"WatchEvents": 1, "ListEvents": 1}


async def test_watch_ends_when_its_reader_is_closed() -> None:
    async with scripted_events(WatchEvents=[watched(1, position=1), watched(2, position=2)]) as (
        s,
        events,
    ):
        stream = events.watch_events()
        await anext(stream)
        await stream.aclose()
        with pytest.raises(StopAsyncIteration):
            await anext(stream)
    assert s.calls["WatchEvents"] == 1


async def test_list_reads_all_pages_also_empty_ones() -> None:
    pages: list[Answer] = [
        pb.ListEventsResponse(events=[event(3)], position=50, has_more=True),
        pb.ListEventsResponse(position=90, has_more=True),
        pb.ListEventsResponse(events=[event(91)], position=95),
    ]
    async with scripted_events(ListEvents=pages) as (server, events):
        reader = events.list_events(after_position=2, page_size=7)
        assert reader.position == 2
        assert (await anext(reader)).position == reader.position == 3
        assert [each.position async for each in reader] == [91]

    assert reader.position == 95
    assert [(r.after_position, r.limit) for r in server.requests] == [(2, 7), (50, 7), (90, 7)]


async def test_list_ends_at_its_limit() -> None:
    page = pb.ListEventsResponse(events=[event(3), event(4)], position=4, has_more=True)
    async with scripted_events(ListEvents=page) as (server, events):
        reader = events.list_events(from_time=TIME, page_size=3, limit=4)
        assert len([each async for each in reader]) == 4

    assert [r.limit for r in server.requests] == [3, 2]


async def test_start_is_one_of_position_and_time() -> None:
    async with EventsClient("127.0.0.1:1", tenant="demo") as events:
        with pytest.raises(ValueError, match="only one start is possible: after_pos"):
            events.list_events(after_position=1, from_time=TIME)
        with pytest.raises(ValueError, match="needs a time zone"):
            events.watch_events(from_time=datetime(2030, 1, 31))  # noqa: DTZ001


async def test_history_of_a_job_is_read_page_by_page() -> None:
    pages: list[Answer] = [
        pb.ListJobEventsResponse(events=[event(9)], next_page_token="next"),
        pb.ListJobEventsResponse(events=[event(3)]),
    ]
    async with scripted_events(ListJobEvents=pages) as (server, events):
        history = events.list_job_events("a", newest_first=True)
        assert [each.position async for each in history] == [9, 3]

    assert [(r.newest_first, r.page_token) for r in server.requests] == [(True, ""), (True, "next")]


async def test_webhook_call_is_repeated_only_when_that_is_safe() -> None:
    webhook = pb.Webhook(webhook_id="wh_1")
    async with scripted_events(
        CreateWebhook=pb.CreateWebhookResponse(webhook=webhook, secret="whsec_a"),
        ListWebhooks=pb.ListWebhooksResponse(webhooks=[webhook]),
        GetWebhook=pb.GetWebhookResponse(webhook=webhook),
        UpdateWebhook=[UNAVAILABLE, pb.UpdateWebhookResponse(webhook=webhook)],
        RotateWebhookSecret=pb.RotateWebhookSecretResponse(webhook=webhook, secret="whsec_b"),
        TestWebhook=pb.TestWebhookResponse(http_status=200),
        DeleteWebhook=UNAVAILABLE,
    ) as (server, events):
        created = await events.create_webhook("https://example.com", types=["job.created"])
        assert created.secret == "whsec_a"
        assert await events.list_webhooks() == [await events.get_webhook("wh_1")]
        await events.update_webhook("wh_1", enabled=False, types=[], position=0)
        assert (await events.rotate_webhook_secret("wh_1")).secret == "whsec_b"
        assert (await events.test_webhook("wh_1")).http_status == 200
        with pytest.raises(errors.JobsError):
            await events.delete_webhook("wh_1")

    # Repeated if it is safe.
    assert (server.calls["UpdateWebhook"], server.calls["DeleteWebhook"]) == (2, 1)
    (update, _) = [r for r in server.requests if isinstance(r, pb.UpdateWebhookRequest)]
    assert update == pb.UpdateWebhookRequest(
        webhook_id="wh_1",
        update_mask=FieldMask(paths=["types", "enabled", "position"]),
        webhook=pb.Webhook(),
    )


async def test_watch_continues_when_a_proxy_ends_the_stream() -> None:
    async with (
        scripted_events(WatchEvents=watched(1, position=1)) as (server, events),
        asyncio.timeout(10),
        aclosing(events.watch_events()) as stream,
    ):
        await anext(stream)
        await anext(stream)  # Of a second call, because the server answers a call only once.
    assert [r.after_position for r in server.requests] == [0, 1]


async def test_watch_and_list_have_the_same_events_across_a_restart_of_the_server(
    database: Database, tenant: str, quick: RetryPolicy
) -> None:
    await database.add_devices(tenant, 1)
    received: list[int] = []
    with reserved_address() as address:
        async with (
            EventsClient(address, tenant=tenant, retry=quick) as events,
            JobsClient(address, tenant=tenant, user="olivia", retry=quick) as jobs,
            asyncio.timeout(TIMEOUT),
            aclosing(events.watch_events(after_position=0)) as stream,
        ):
            for number in range(2):
                async with running_server(database.request_dsn, JOBS_LISTEN=address):
                    await jobs.create("reboot", target_all=True, job_id=f"j{number}")
                    await jobs.pause(f"j{number}", reason="why")
                    while len(received) < 2 * (number + 1):
                        received.append((await anext(stream)).position)
                    listed = [event async for event in events.list_events(page_size=1)]

    assert received == [event.position for event in listed]
    assert [(event.job_id, event.type, event.user_id) for event in listed] == [
        (f"j{number}", type_, "olivia")
        for number in range(2)
        for type_ in ("job.created", "job.paused")
    ]
