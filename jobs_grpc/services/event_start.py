"""Where a list or a stream of events begins."""

import time
from collections.abc import Sequence
from typing import NamedTuple

from fleet.jobs.v1.events_pb2 import ListEventsRequest, WatchEventsRequest

from jobs_grpc.errors import Violation

# How far the clock of a caller may be ahead.
_TOLERANCE_SECONDS = 10


class Start(NamedTuple):
    """The start of a list or stream. At most one field is set."""

    after_position: int | None = None
    from_position: int | None = None


def check_from_time(request: ListEventsRequest | WatchEventsRequest) -> Sequence[Violation]:
    """Check that from_time is not in the future: events before it would get positions later."""
    if not request.HasField("from_time"):
        return []
    if request.from_time.seconds <= time.time() + _TOLERANCE_SECONDS:
        return []
    return [Violation("from_time", "from_time must not be later than now")]


def start_of(request: ListEventsRequest | WatchEventsRequest) -> Start:
    """Return the start of a request."""
    match request.WhichOneof("start"):
        case "after_position":
            return Start(after_position=request.after_position)
        case "from_time":
            # An event that was stored at a time has at least this position; see event_position.sql.
            since = request.from_time
            return Start(from_position=since.seconds * 1_000_000 + -(-since.nanos // 1000))
        case _:
            return Start()
