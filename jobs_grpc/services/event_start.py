"""Where a list or a stream of events begins."""

from typing import NamedTuple

from fleet.jobs.v1.events_pb2 import ListEventsRequest, WatchEventsRequest


class Start(NamedTuple):
    """The start of a list or stream. At most one field is set."""

    after_position: int | None = None
    from_position: int | None = None


def start_of(request: ListEventsRequest | WatchEventsRequest) -> Start:
    """Return the start of a request."""
    match request.WhichOneof("start"):
        case "after_position":
            return Start(after_position=request.after_position)
        case "from_time":
            # An event that was stored at a time has at least this position; see event_position.sql.
            time = request.from_time
            return Start(from_position=time.seconds * 1_000_000 + -(-time.nanos // 1000))
        case _:
            return Start()
