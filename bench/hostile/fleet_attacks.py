"""Attacks with selectors, previews, events and webhooks. Each runs until it is canceled."""

import asyncio
import itertools
import re
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

import grpc
from fleet.jobs.v1 import events_pb2 as events_pb
from fleet.jobs.v1 import fleet_pb2 as fleet_pb
from fleet.jobs.v1 import jobs_pb2 as pb
from google.protobuf.field_mask_pb2 import FieldMask

from bench.hostile.grpc_attacks import TENANT, forever, keep_calling
from bench.process import connect
from jobs_grpc.client import JobsError
from tests.harness.calls import Calls
from tests.support import http2
from tests.support.endpoints import serving

FLEET_TENANT = "attacker-fleet"
"""A tenant with the labels `key-0` to `key-3` on each of its devices."""

GROUPS_TENANT = "attacker-groups"
"""A tenant with 400 devices in 1,000 groups each."""

HOOK_PORT = 47_391
"""Where the attacker receives webhooks, on loopback."""

# How long a delivery to a webhook that hangs takes. The timeout of the server is 15 seconds.
_HANG_SECONDS = 1.5

waits: list[float] = []
"""The seconds until each POST to the new webhook of another tenant."""

posts: list[float] = []
"""The times of the POSTs that this process has received, except while it prepares an attack."""

prepared = asyncio.Event()
"""Set when an attack that needs preparation begins."""

_NAME = TENANT["x-tenant-id"]
_FLEET = {"x-tenant-id": FLEET_TENANT}
_SERVICE = "/fleet.jobs.v1.FleetService"
_WEBHOOKS = 16  # as many as a tenant may have
_EVENTS = 20  # that each webhook of a replay repeats


def _long_selector(length: int, terms: int) -> str:
    """Return a selector of about this length that matches each device of the fleet."""
    chosen = [f"key-{number % 4}!=value-{number}" for number in range(terms - 1)]
    room = length - len(",".join(chosen)) - len(",key-0 notin ()")
    values = [f"no-value-{number:04}-{'x' * 25}" for number in range(room // 40)]
    return ",".join([*chosen, f"key-0 notin ({','.join(values)})"])


async def selectors(address: str) -> None:
    """List devices by 32 terms of almost 4,096 characters in all, on 1,500 streams."""
    request = fleet_pb.ListDevicesRequest(selector=_long_selector(4_096, 32), limit=1000)
    await keep_calling(
        address, f"{_SERVICE}/ListDevices", http2.message(request), metadata=_FLEET, window=0
    )


async def selectors_without_matches(address: str) -> None:
    """List devices by 32 terms that no device matches, on 1,500 streams."""
    selector = _long_selector(4_000, 31) + ",key-0=nowhere"
    request = fleet_pb.ListDevicesRequest(selector=selector)
    await keep_calling(address, f"{_SERVICE}/ListDevices", http2.message(request), metadata=_FLEET)


async def devices_with_many_groups(address: str) -> None:
    """List devices, of which 400 have 1,000 groups each, on 12 connections."""
    request = fleet_pb.ListDevicesRequest(limit=1000)
    await keep_calling(
        address,
        f"{_SERVICE}/ListDevices",
        http2.message(request),
        metadata={"x-tenant-id": GROUPS_TENANT},
        connections=12,
        streams=1,
    )


async def previews(address: str) -> None:
    """Preview a selector and ten stages with selectors, over the large fleet, on 1,500 streams."""
    stages = [
        pb.Stage(selector=_long_selector(500, 8) + f",key-1=stage-{number}", allow_empty=True)
        for number in range(10)
    ]
    request = fleet_pb.PreviewTargetRequest(
        target_selector=_long_selector(4_096, 32),
        rollout=pb.Rollout(stages=[*stages, pb.Stage(remainder=True)]),
    )
    await keep_calling(
        address, f"{_SERVICE}/PreviewTarget", http2.message(request), metadata=_FLEET
    )


async def audit_log_refusals(address: str) -> None:
    """Delete 100 devices with the longest IDs in each call, as a device, on 1,500 streams."""
    # An emoji takes 12 bytes in the log.
    device_ids = [f"{number:02}" + "\U0001f600" * 254 for number in range(100)]
    await keep_calling(
        address,
        f"{_SERVICE}/DeleteDevices",
        http2.message(fleet_pb.DeleteDevicesRequest(device_ids=device_ids)),
        metadata=TENANT | {"x-roles": "device", "x-device-id": "d", "x-user-id": "d"},
    )


async def unread_events(address: str) -> None:
    """Watch events on 1,500 streams, grant no window, and cause events all the time."""
    request = http2.message(events_pb.WatchEventsRequest(after_position=0))
    watch = keep_calling(address, "/fleet.jobs.v1.EventService/WatchEvents", request, window=0)
    await asyncio.gather(watch, _cause_events(address))


async def event_pages(address: str) -> None:
    """Request pages of 1,000 events on 1,500 streams, grant no window, and cause events."""
    request = http2.message(events_pb.ListEventsRequest(after_position=0, limit=1000))
    pages = keep_calling(address, "/fleet.jobs.v1.EventService/ListEvents", request, window=0)
    await asyncio.gather(pages, _cause_events(address))


async def webhooks_that_hang(address: str) -> None:
    """Send events to 16 webhooks of a tenant, whose endpoints accept connections and hang."""

    async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await _read_post(reader)
        await forever()

    await _receive_webhooks(address, hang)


async def webhooks_with_endless_responses(address: str) -> None:
    """Send events to 16 webhooks of a tenant, whose endpoints respond with endless headers."""

    async def respond(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await _read_post(reader)
        writer.write(b"HTTP/1.1 200 OK\r\n")
        while not writer.is_closing():
            writer.write(b"X-Text: " + b"x" * 4_000 + b"\r\n")
            await writer.drain()

    await _receive_webhooks(address, respond)


async def webhook_replays(address: str) -> None:
    """Move the positions of 16 webhooks of a tenant back to 0, as fast as the server responds."""
    await _receive_webhooks(address, _accept, {"position": 0})


async def webhook_urls(address: str) -> None:
    """Move the positions of 16 webhooks back to 0 and change their URLs, as fast as possible."""
    change = {"url": f"http://127.0.0.1:{HOOK_PORT}/other", "position": 0}
    await _receive_webhooks(address, _accept, change)


async def webhooks_of_tenants_that_hang(address: str) -> None:
    """Send events to 16 webhooks each of 12 tenants, which hang 1.5 s, and to one of another."""
    tenants = [f"{_NAME}-hooks-{number}" for number in range(12)]
    victim = f"{_NAME}-hooks-victim"

    async def respond(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if (await reader.readuntil()).startswith(b"POST /victim "):
            waits.append(time.monotonic() - started)
            writer.write(b"HTTP/1.1 204 No Content\r\n\r\n")
        else:
            await asyncio.sleep(_HANG_SECONDS)

    async with serving(respond, port=HOOK_PORT), connect(address) as calls:

        async def cause_event(tenant: str, path: str, webhooks: int) -> None:
            for _ in range(webhooks):
                create = events_pb.CreateWebhookRequest(url=f"http://127.0.0.1:{HOOK_PORT}/{path}")
                await calls.call(create, tenant)
            device = fleet_pb.UpdateDevicesRequest(
                devices=[fleet_pb.Device(device_id="d")],
                update_mask=FieldMask(paths=["labels"]),
                allow_missing=True,
            )
            await calls.call(device, tenant)
            await calls.call(pb.CreateJobRequest(document_type="bench", target_all=True), tenant)

        for tenant in tenants:
            await cause_event(tenant, "hang", _WEBHOOKS)
        started = time.monotonic()
        await cause_event(victim, "victim", 1)
        await forever()


async def _accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while True:
        await _read_post(reader)
        writer.write(b"HTTP/1.1 204 No Content\r\n\r\n")
        await writer.drain()


async def _read_post(reader: asyncio.StreamReader) -> None:
    head = await reader.readuntil(b"\r\n\r\n")
    length = re.search(rb"(?i)content-length: (\d+)", head)
    await reader.readexactly(int(length[1]) if length else 0)
    posts.append(time.monotonic())


async def _receive_webhooks(
    address: str,
    respond: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]],
    change: Mapping[str, Any] | None = None,
) -> None:
    async with serving(respond, port=HOOK_PORT), connect(address) as calls:
        listed = await calls.call(events_pb.ListWebhooksRequest(), _NAME)
        for webhook in listed.webhooks:
            request = events_pb.DeleteWebhookRequest(webhook_id=webhook.webhook_id)
            await calls.call(request, _NAME)
        for number in range(_WEBHOOKS):
            create = events_pb.CreateWebhookRequest(url=f"http://127.0.0.1:{HOOK_PORT}/{number}")
            # The attack before this one may have used the limit of restarts.
            await _call_until_accepted(calls, create)
        if change is None:
            await _cause_events(address)
            return
        # What is sent for the first time is not part of the attack.
        for _ in range(_EVENTS // 2):
            await _cause_two_events(calls)
        webhooks = await _webhooks_without_events(calls)
        posts.clear()
        prepared.set()
        for number, webhook in enumerate(itertools.cycle(webhooks)):
            fields = dict(change)
            if "url" in fields:
                fields["url"] += str(number)
            update = events_pb.UpdateWebhookRequest(
                webhook_id=webhook.webhook_id,
                update_mask=FieldMask(paths=fields),
                webhook=events_pb.Webhook(**fields),
            )
            with suppress(JobsError):
                await calls.call(update, _NAME)


async def _webhooks_without_events(calls: Calls) -> Sequence[events_pb.Webhook]:
    """Return the webhooks of the tenant when each has sent all events."""
    while True:
        listed = await calls.call(events_pb.ListWebhooksRequest(), _NAME)
        request = events_pb.ListEventsRequest(
            after_position=min(webhook.position for webhook in listed.webhooks)
        )
        if not (await calls.call(request, _NAME)).events:
            return list(listed.webhooks)
        await asyncio.sleep(0.1)


async def _call_until_accepted(calls: Calls, request: Any) -> None:
    """Make a call again while it is over a limit."""
    while True:
        try:
            await calls.call(request, _NAME)
            return
        except JobsError as e:
            if e.code is not grpc.StatusCode.RESOURCE_EXHAUSTED:
                raise
        await asyncio.sleep(0.5)


async def _cause_events(address: str) -> None:
    """Pause and resume a job as fast as the server responds."""
    async with connect(address) as calls:
        while True:
            try:
                await _cause_two_events(calls)
            except JobsError:
                await asyncio.sleep(0.1)


async def _cause_two_events(calls: Calls) -> None:
    await calls.call(pb.PauseJobRequest(job_id="j"), _NAME)
    await calls.call(pb.ResumeJobRequest(job_id="j"), _NAME)
