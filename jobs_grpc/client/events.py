"""EventsClient: the history of jobs, the events of a tenant, and its webhooks."""

import asyncio
import random
from collections.abc import AsyncGenerator, Iterable
from contextlib import aclosing
from typing import Any, Self, Unpack

from fleet.jobs.v1 import events_pb2 as pb
from fleet.jobs.v1 import events_pb2_grpc
from google.protobuf.field_mask_pb2 import FieldMask

from jobs_grpc.client.operator_client import OperatorClient, Pager
from jobs_grpc.client.requests import EventFilter, Page, build_request


class EventReader:
    """Iterates over events with `async for`, and keeps the position up to which it has read."""

    def __init__(self, batches: AsyncGenerator[Any, None], position: int | None) -> None:
        """Read responses that have `events` and a `position`."""
        self._events = self._iterate(batches)
        self.position = position
        """All matching events up to this position have been returned. To continue later, pass it as
        `after_position`. It also grows without events. None: nothing has been read yet."""

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> pb.Event:
        return await anext(self._events)

    async def _iterate(self, batches: AsyncGenerator[Any, None]) -> AsyncGenerator[pb.Event, None]:
        async with aclosing(batches):
            async for batch in batches:
                for event in batch.events:
                    self.position = event.position
                    yield event
                self.position = batch.position

    async def aclose(self) -> None:
        """End the stream. Needed only if the loop over its events ended early."""
        await self._events.aclose()


class EventsClient(OperatorClient):
    """Calls EventService for one tenant. See OperatorClient for common parameters and errors."""

    _stub = events_pb2_grpc.EventServiceStub

    def list_job_events(
        self,
        job_id: str,
        *,
        newest_first: bool = False,
        types: Iterable[str] = (),
        **page: Unpack[Page],
    ) -> Pager[pb.Event]:
        """List the events of a job: its history."""
        return self._pager(pb.ListJobEventsRequest, pb.ListJobEventsResponse, "events", locals())

    def list_events(
        self,
        *,
        page_size: int = 100,
        limit: int | None = None,
        **fields: Unpack[EventFilter],
    ) -> EventReader:
        """List the events after a position or from a time, or from the oldest one, up to now.

        Raises EventsPurged or PositionUnknown if events after the position are lost.
        """
        batches = self._pages(build_request(pb.ListEventsRequest, fields), page_size, limit)
        return EventReader(batches, fields.get("after_position"))

    async def _pages(
        self, request: pb.ListEventsRequest, page_size: int, limit: int | None
    ) -> AsyncGenerator[pb.ListEventsResponse, None]:
        left = limit
        while left is None or left > 0:
            request.limit = page_size if left is None else min(page_size, left)
            page = await self._calls.unary(request, pb.ListEventsResponse)
            yield page
            if not page.has_more:
                return
            request.after_position = page.position
            if left is not None:
                left -= len(page.events)

    def watch_events(self, **fields: Unpack[EventFilter]) -> EventReader:
        """Follow the events after a position or from a time, or those from now on. Never ends.

        When the stream breaks, reconnects after a random time and continues after the last
        position: no event is missing and none repeats. Raises EventsPurged or PositionUnknown if
        events after the position are lost: read the jobs again, then continue after the
        `purgedPosition` or `lastPosition` in the metadata of the error.
        """
        batches = self._responses(build_request(pb.WatchEventsRequest, fields))
        return EventReader(batches, fields.get("after_position"))

    async def _responses(
        self, request: pb.WatchEventsRequest
    ) -> AsyncGenerator[pb.WatchEventsResponse, None]:
        while True:
            async for response in self._calls.follow(request, pb.WatchEventsResponse):
                request.after_position = response.position  # for the next connection
                yield response
            # A proxy may end a stream without an error.
            spread = random.uniform(0, self._calls.retry.reconnect_within)  # noqa: S311 - not for security
            await asyncio.sleep(spread)

    async def create_webhook(
        self, url: str, *, description: str = "", types: Iterable[str] = ()
    ) -> pb.CreateWebhookResponse:
        """Create a webhook. The response has its secret, which no later call returns.

        The client does not retry the call, because each call creates a webhook.
        """
        request = build_request(pb.CreateWebhookRequest, locals())
        return await self._calls.unary(request, pb.CreateWebhookResponse)

    async def list_webhooks(self) -> list[pb.Webhook]:
        """List the webhooks, oldest first."""
        response = await self._calls.unary(pb.ListWebhooksRequest(), pb.ListWebhooksResponse)
        return [*response.webhooks]

    async def get_webhook(self, webhook_id: str) -> pb.Webhook:
        """Return a webhook with the state of its deliveries."""
        request = pb.GetWebhookRequest(webhook_id=webhook_id)
        return (await self._calls.unary(request, pb.GetWebhookResponse)).webhook

    async def update_webhook(
        self,
        webhook_id: str,
        *,
        url: str | None = None,
        description: str | None = None,
        types: Iterable[str] | None = None,
        enabled: bool | None = None,
        position: int | None = None,
    ) -> pb.Webhook:
        """Change the fields of a webhook that are not None. Safe to repeat.

        With a `position`, the server sends the events after it: an earlier position sends events
        again, a later one skips events.
        """
        fields = {
            name: value
            for name, value in locals().items()
            if value is not None and name not in ("self", "webhook_id")
        }
        request = pb.UpdateWebhookRequest(
            webhook_id=webhook_id,
            update_mask=FieldMask(paths=[*fields]),
            webhook=pb.Webhook(**fields),
        )
        return (await self._calls.unary(request, pb.UpdateWebhookResponse)).webhook

    async def delete_webhook(self, webhook_id: str) -> None:
        """Delete a webhook. The client does not retry the call."""
        request = pb.DeleteWebhookRequest(webhook_id=webhook_id)
        await self._calls.unary(request, pb.DeleteWebhookResponse)

    async def rotate_webhook_secret(self, webhook_id: str) -> pb.RotateWebhookSecretResponse:
        """Give a webhook a new secret, and return it. The client does not retry the call.

        For a day, deliveries are signed with the old secret as well.
        """
        request = pb.RotateWebhookSecretRequest(webhook_id=webhook_id)
        return await self._calls.unary(request, pb.RotateWebhookSecretResponse)

    async def test_webhook(self, webhook_id: str) -> pb.TestWebhookResponse:
        """Send a test event to the URL of a webhook, and return the result."""
        request = pb.TestWebhookRequest(webhook_id=webhook_id)
        return await self._calls.unary(request, pb.TestWebhookResponse)
