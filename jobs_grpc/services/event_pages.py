"""Reads pages of events for the streams of WatchEvents."""

from collections.abc import Iterator, Sequence
from functools import cache
from itertools import takewhile
from typing import NamedTuple

from fleet.jobs.v1.events_pb2 import WatchEventsResponse

from jobs_grpc.db.store import Row, Store
from jobs_grpc.errors import EventsPurged, JobsError, PositionUnknown
from jobs_grpc.services.batch_reader import Encode
from jobs_grpc.services.event_conversions import encode_event
from jobs_grpc.services.event_start import Start
from jobs_grpc.services.response_pages import MAX_RESPONSE_BYTES
from jobs_grpc.services.wire_format import bytes_field

MAX_EVENTS = 100
"""Maximum number of events in a page, and in a response."""


class EventQuery(NamedTuple):
    """Selects the next page of a stream."""

    start: Start
    """Without a position: after the last event."""
    types: frozenset[str] = frozenset()
    """Empty: all."""
    job_id: str = ""
    """Empty: all."""


class EncodedEvent(NamedTuple):
    """An event, encoded as a field of WatchEventsResponse."""

    position: int
    type: str
    job_id: str
    field: bytes


class EventPage(NamedTuple):
    """Events of a query, as a response."""

    events: Sequence[EncodedEvent]
    position: int
    """All matching events up to this position are in this page or an earlier one."""
    has_more: bool
    response: bytes
    error: JobsError | None = None
    """The error of the query, for the one stream that made it."""


async def read_pages(
    store: Store, tenant_id: str, queries: Sequence[EventQuery]
) -> Iterator[Encode[EventPage]]:
    """Read the page of the first query, and return it also for the equal queries that follow.

    See batch_reader.Read.
    """
    query = queries[0]
    try:
        rows = await store.list_events(
            tenant_id,
            after_position=query.start.after_position,
            from_position=query.start.from_position,
            types=sorted(query.types) or None,
            job_id=query.job_id or None,
            limit=MAX_EVENTS + 1,
        )
    except (EventsPurged, PositionUnknown) as e:
        error = e
        return iter([lambda: EventPage((), 0, has_more=False, response=b"", error=error)])

    @cache
    def encode() -> EventPage:
        return _encode(rows)

    return (encode for _ in takewhile(query.__eq__, queries))


def response(events: Sequence[EncodedEvent], position: int) -> bytes:
    """Encode a WatchEventsResponse."""
    end = WatchEventsResponse(position=position).SerializeToString()
    return b"".join((*(event.field for event in events), end))


def _encode(rows: Sequence[Row]) -> EventPage:
    *found, end = rows
    events: list[EncodedEvent] = []
    size = 0
    for row in found:
        # The database returns no status of the events for which a page has no room.
        field = bytes_field(1, encode_event(row)) if row["status"] is not None else b""
        size += len(field)
        if not field or len(events) == MAX_EVENTS or (events and size > MAX_RESPONSE_BYTES):
            position = events[-1].position
            return EventPage(events, position, True, response(events, position))
        events.append(EncodedEvent(row["position"], row["type"], row["job_id"], field))
    position = end["position"]
    return EventPage(events, position, end["has_more"], response(events, position))
