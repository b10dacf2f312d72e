"""Page tokens of the list methods.

A page token is URL-safe base64 of a JSON list: a digest of the request's filters, and then the
sort key of the last item on the page. A token of pending executions also names the device, which
is not a field of the request. A token of a page of one job also has the time at which the job was
created, or the position of this event, because another job may get its job_id after it is deleted.
"""

import base64
import hashlib
import json
import re
from collections.abc import Callable
from typing import Any, TypeAlias

from fleet.jobs.v1 import jobs_pb2 as pb
from fleet.jobs.v1.device_jobs_pb2 import ListPendingExecutionsRequest
from fleet.jobs.v1.events_pb2 import ListJobEventsRequest
from fleet.jobs.v1.fleet_pb2 import ListDevicesRequest, ListGroupsRequest
from google.protobuf.message import Message

from jobs_grpc.db.store import PgMicros
from jobs_grpc.errors import InvalidPageToken

PagedRequest: TypeAlias = (
    pb.ListJobsRequest
    | pb.ListJobExecutionsRequest
    | pb.ListExecutionAttemptsRequest
    | ListPendingExecutionsRequest
    | ListDevicesRequest
    | ListGroupsRequest
    | ListJobEventsRequest
)

# About 2,283 years before and after 2000, well within the range of PostgreSQL's timestamps.
_MAX_PG_MICROS = 2**56

_MAX_INT32 = 2**31 - 1

_MAX_POSITION = 2**53 - 1

_INVALID = "page_token is invalid; omit it to start from the first page"
_OTHER_REQUEST = (
    "page_token belongs to a request with other fields; omit it to start from the first page"
)

_OTHER_JOB = (
    "page_token belongs to an earlier job with this job_id, which was deleted; omit it to start"
    " from the first page"
)

_NOT_STORABLE = re.compile("[\0\ud800-\udfff]")


def page_token(request: PagedRequest, *position: str | int) -> str:
    """The token for the page after the item with this position. Tokens are read by parse_token."""
    parts = [_filters_digest(request), *map(str, position)]
    raw = json.dumps(parts, separators=(",", ":"))
    return base64.urlsafe_b64encode(raw.encode()).decode().rstrip("=")


def parse_token(request: PagedRequest, *parsers: Callable[[str], Any]) -> list[Any]:
    """The position in request.page_token, read by `parsers`; if it is empty, None for each.

    Raises InvalidPageToken.
    """
    if not request.page_token:
        return [None] * len(parsers)
    try:
        parts = zip(parsers, _decode(request), strict=True)
        return [parse(part) for parse, part in parts]
    except ValueError:
        raise InvalidPageToken(_INVALID) from None


def parse_micros(text: str) -> PgMicros:
    """Parse a time of a token. Raises ValueError."""
    return _parse_int(text, _MAX_PG_MICROS)


def parse_int32(text: str) -> int:
    """Parse a number of a token. Raises ValueError."""
    return _parse_int(text, _MAX_INT32)


def parse_position(text: str) -> int:
    """Parse a position of a token. Raises ValueError."""
    return _parse_int(text, _MAX_POSITION)


def check_history(token_start: int | None, start: int) -> None:
    """Raise InvalidPageToken if the token (None: there is none) belongs to an earlier job.

    The numbers are where the histories begin. That of the same job begins earlier, at 0, after its
    first event was purged.
    """
    if token_start is not None and start > token_start:
        raise InvalidPageToken(_OTHER_JOB)


def check_job(token_created_at: PgMicros | None, job_created_at: PgMicros) -> None:
    """Raise InvalidPageToken if the token (None: there is none) belongs to an earlier job."""
    if token_created_at is not None and token_created_at != job_created_at:
        raise InvalidPageToken(_OTHER_JOB)


def parse_pending_token(request: PagedRequest, device_id: str) -> list[Any]:
    """The status, queue_order, queued_at and job_id of a token, after its device_id.

    None for each if there is no token. Raises InvalidPageToken, also for that of another device.
    """
    token_device_id, *position = parse_token(
        request, str, _parse_status, _parse_queue_order, parse_micros, str
    )
    if token_device_id not in (None, device_id):
        raise InvalidPageToken(_OTHER_REQUEST)
    return position


def _parse_status(text: str) -> str:
    if text not in ("IN_PROGRESS", "QUEUED"):
        raise ValueError(f"{text} is not the status of a pending execution")
    return text


def _parse_queue_order(text: str) -> int:
    return _parse_int(text, 1)


def _parse_int(text: str, maximum: int) -> int:
    """An integer from -maximum to maximum. Raises ValueError."""
    number = int(text)
    if abs(number) > maximum:
        raise ValueError(f"{number} is out of range")
    return number


def _decode(request: PagedRequest) -> list[str]:
    """The position in request.page_token. Raises InvalidPageToken."""
    token = request.page_token
    try:
        raw = base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True)
        parts = json.loads(raw)
    except (ValueError, RecursionError):
        raise InvalidPageToken(_INVALID) from None
    if not isinstance(parts, list) or not parts or not all(map(_is_storable_text, parts)):
        raise InvalidPageToken(_INVALID)
    digest, *position = parts
    if digest != _filters_digest(request):
        raise InvalidPageToken(_OTHER_REQUEST)
    return position


def _is_storable_text(part: object) -> bool:
    """Whether PostgreSQL accepts `part` as text: no U+0000 and no unpaired surrogate."""
    return isinstance(part, str) and not _NOT_STORABLE.search(part)


def _filters_digest(request: Message) -> str:
    """A digest of the request without its limit and position."""
    filters = type(request)()
    filters.CopyFrom(request)
    for field in ("limit", "offset", "page_token"):
        if field in request.DESCRIPTOR.fields_by_name:
            filters.ClearField(field)
    raw = request.DESCRIPTOR.full_name.encode() + filters.SerializeToString(deterministic=True)
    return hashlib.sha256(raw).hexdigest()[:16]
