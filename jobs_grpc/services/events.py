"""Implements EventService: each method validates, calls the store and converts the result."""

import asyncio
from collections.abc import Sequence

from fleet.jobs.v1 import events_pb2 as pb
from fleet.jobs.v1 import events_pb2_grpc
from grpc.aio import ServicerContext

from jobs_grpc.auth.principal import current_principal
from jobs_grpc.config import EventsConfig
from jobs_grpc.contract.methods import page_size
from jobs_grpc.db.store import Row, Store
from jobs_grpc.limits.fair_slots import FairSlots
from jobs_grpc.limits.memory_limit import MemoryLimit
from jobs_grpc.services import validation
from jobs_grpc.services.event_conversions import event_fields
from jobs_grpc.services.event_start import check_from_time, start_of
from jobs_grpc.services.event_stream import HEARTBEAT_SECONDS, EventStreams
from jobs_grpc.services.page_tokens import (
    check_history,
    page_token,
    parse_position,
    parse_token,
)
from jobs_grpc.services.response_pages import fill_page
from jobs_grpc.services.webhooks import WebhookDelivery, Webhooks


class EventService(Webhooks, events_pb2_grpc.EventServiceServicer):
    """Implements EventService of events.proto; the base class Webhooks has the calls for webhooks.

    Large pages are converted in `slots`, so that other calls run in between. A stream sends a
    message at least every `heartbeat` seconds. `stopping` is set when the server begins to stop.
    """

    def __init__(
        self,
        store: Store,
        memory: MemoryLimit,
        slots: FairSlots,
        stopping: asyncio.Event,
        config: EventsConfig,
        delivery: WebhookDelivery | None,
        heartbeat: float = HEARTBEAT_SECONDS,
    ) -> None:
        Webhooks.__init__(self, store, config, delivery)
        self._store = store
        self._yield_now = slots.yield_for_caller
        self.streams = EventStreams(store, memory, stopping, slots.yield_now, heartbeat=heartbeat)

    async def ListJobEvents(
        self, request: pb.ListJobEventsRequest, context: object
    ) -> pb.ListJobEventsResponse:
        limit = page_size(request)
        validation.require_valid(request)
        token_start, last_position = parse_token(request, parse_position, parse_position)
        *rows, end = await self._store.list_job_events(
            current_principal().tenant_id,
            job_id=request.job_id,
            newest_first=request.newest_first,
            last_position=last_position,
            limit=limit + 1,
            types=list(request.types) or None,
        )
        start, last = end["position"], end["last_examined"]
        check_history(token_start, start)
        response = pb.ListJobEventsResponse()
        if await self._fill(response.events, rows, limit):
            last = response.events[-1].position
        if last is not None:
            response.next_page_token = page_token(request, start, last)
        return response

    async def ListEvents(
        self, request: pb.ListEventsRequest, context: object
    ) -> pb.ListEventsResponse:
        limit = page_size(request)
        validation.require_valid(request, check_from_time(request))
        start = start_of(request)
        *rows, end = await self._store.list_events(
            current_principal().tenant_id,
            after_position=start.after_position or 0,
            from_position=start.from_position,
            types=list(request.types) or None,
            job_id=request.job_id or None,
            limit=limit + 1,
        )
        response = pb.ListEventsResponse(position=end["position"], has_more=end["has_more"])
        if await self._fill(response.events, rows, limit):
            response.position = response.events[-1].position
            response.has_more = True
        return response

    async def WatchEvents(  # type: ignore[override]  # gRPC allows context.write
        self,
        request: pb.WatchEventsRequest,
        context: ServicerContext[pb.WatchEventsRequest, bytes],
    ) -> None:
        validation.require_valid(request, check_from_time(request))
        start, types, job_id = start_of(request), frozenset(request.types), request.job_id
        del request
        tenant_id = current_principal().tenant_id
        await self.streams.run(tenant_id, start, types, job_id, context.write)

    async def _fill(self, events: Sequence[pb.Event], rows: Sequence[Row], limit: int) -> bool:
        """Add events to a page; return whether some did not fit."""
        # The database returns no status of the events for which a page has no room.
        fitting = [row for row in rows if row["status"] is not None]
        is_full = await fill_page(events, fitting, event_fields, limit, self._yield_now)
        return is_full or len(fitting) < len(rows)
