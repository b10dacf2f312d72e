"""Random calls of EventService: each event arrives once, in the order of its job."""

import json
import uuid
from collections.abc import Iterable
from contextlib import aclosing
from typing import Any

from tests.machine.machine import Machine, outcome
from tests.support.events import stored_events
from tests.support.webhooks import RecordingSender


async def read_events(m: Machine) -> None:
    """ListEvents or WatchEvents; ListJobEvents returns the same."""
    stored = {
        job.job_id: [
            event.type for event in await stored_events(m.service.database, m.tenant, job.job_id)
        ]
        for job in m.state.jobs
    }
    if m.choice([True, False]):
        async with aclosing(m.events.watch(after_position=m.position)) as responses:
            async for response in responses:
                _add(m, response.events)
                if all(len(m.listed_events.get(job, [])) >= len(stored[job]) for job in stored):
                    break
    else:
        _add(m, await m.events.list_all(after_position=m.position, limit=7))
    # Meanwhile, the server can add events of gates with a time.
    for job_id, types in stored.items():
        listed = m.listed_events[job_id]
        assert listed[: len(types)] == types
        history = await m.events.history(job_id, limit=200)
        assert [event.type for event in history.events][: len(listed)] == listed


def _add(m: Machine, events: Iterable[Any]) -> None:
    for event in events:
        m.position = event.position
        m.listed_events.setdefault(event.job_id, []).append(event.type)


async def create_webhook(m: Machine) -> None:
    """CreateWebhook. No URL is used again, because deliveries are compared by it."""
    if len(m.webhooks) < 16:
        url = f"https://hooks.example/{uuid.uuid4().hex}"
        response = await m.webhook_caller.create(url=url)
        m.webhooks[response.webhook.webhook_id] = True


async def change_webhook(m: Machine) -> None:
    """UpdateWebhook, RotateWebhookSecret, TestWebhook or DeleteWebhook."""
    if not m.webhooks:
        return
    webhook_id = m.choice(sorted(m.webhooks))
    match m.choice(["update", "rotate", "test", "delete"]):
        case "update":
            m.webhooks[webhook_id] = m.choice([True, False])
            await m.webhook_caller.update(webhook_id, enabled=m.webhooks[webhook_id])
        case "rotate":
            assert (await m.webhook_caller.rotate(webhook_id)).secret
        case "test":
            # Only once: the next test of a webhook would have to wait for ten seconds.
            if webhook_id not in m.tested_webhooks:
                m.tested_webhooks.add(webhook_id)
                result = await m.webhook_caller.test(webhook_id)
                assert result.http_status == m.service.sender.result.status
        case "delete":
            await m.webhook_caller.delete(webhook_id)
            del m.webhooks[webhook_id]
            assert await outcome(m.webhook_caller.get(webhook_id)) == (None, "WEBHOOK_NOT_FOUND")


async def list_webhooks(m: Machine) -> None:
    """ListWebhooks. Each webhook gets its events in order, and repeats one only before the next."""
    listed = await m.webhook_caller.list()
    assert {webhook.webhook_id: webhook.enabled for webhook in listed} == m.webhooks
    for webhook in listed:
        positions = delivered_positions(m.service.sender, webhook.url)
        assert positions == sorted(positions)


def delivered_positions(sender: RecordingSender, url: str | None = None) -> list[int]:
    """Return the positions of the events that were sent, to this URL or to all."""
    payloads = [json.loads(body) for to, _, body in list(sender.sent) if url in (None, to)]
    return [int(p["data"]["position"]) for p in payloads if p["type"] != "webhook.test"]
