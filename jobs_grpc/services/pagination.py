"""Page tokens of the list methods, and the pages themselves.

Default and maximum page sizes are options of the `limit` fields in jobs.proto.

A page token is URL-safe base64 of a JSON list: a digest of the request's filters, and then the
sort key of the last item on the page. A token of pending executions also names the device, which
is not a field of the request. A token of a page of one job also has the time at which the job was
created, because another job may get its job_id after it is deleted.
"""

import base64
import hashlib
import json
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeAlias

from fleet.jobs.v1 import jobs_pb2 as pb
from fleet.jobs.v1.device_jobs_pb2 import ListPendingExecutionsRequest
from fleet.jobs.v1.fleet_pb2 import ListDevicesRequest, ListGroupsRequest
from google.protobuf.message import Message

from jobs_grpc.db.store import PgMicros
from jobs_grpc.errors import InvalidPageToken
from jobs_grpc.limits.fair_slots import Pause

PagedRequest: TypeAlias = (
    pb.ListJobsRequest
    | pb.ListJobExecutionsRequest
    | pb.ListExecutionAttemptsRequest
    | ListPendingExecutionsRequest
    | ListDevicesRequest
    | ListGroupsRequest
)

# gRPC clients accept messages of up to 4 MiB by default. 4 KiB are reserved for the page token.
MAX_RESPONSE_BYTES = 4 * 1024 * 1024 - 4096

# A page has no more than this per item that was asked for, so that a call with a low limit needs
# little of the memory limit. Two documents of nearly the default maximum fit in an item.
MAX_ITEM_BYTES = 64 * 1024

# A message in a repeated field also takes a field tag and a length.
_ITEM_OVERHEAD_BYTES = 6

# About 2,283 years before and after 2000, well within the range of PostgreSQL's timestamps.
_MAX_PG_MICROS = 2**56

_MAX_INT32 = 2**31 - 1

_INVALID = "page_token is invalid; omit it to start from the first page"
_OTHER_REQUEST = (
    "page_token belongs to a request with other fields; omit it to start from the first page"
)

_OTHER_JOB = (
    "page_token belongs to an earlier job with this job_id, which was deleted; omit it to start"
    " from the first page"
)

_NOT_STORABLE = re.compile("[\0\ud800-\udfff]")


PAUSE_BYTES = 32 * 1024
"""Bytes of a page that are converted between two pauses. Nested lists take milliseconds."""


def max_page_bytes(limit: int) -> int:
    """The maximum size of a page of up to `limit` items, and of the message around them."""
    return min((max(limit, 0) + 1) * MAX_ITEM_BYTES, MAX_RESPONSE_BYTES)


async def fill_page(
    page: Any,
    items: Iterable[Mapping[str, Any]],
    limit: int,
    pause: Pause,
    *,
    used_bytes: int = 0,
) -> bool:
    """Add messages to `page`, a repeated field, until it is full.

    `items` are the field values of each message. The page is full when it has `limit` messages
    or when the next one and `used_bytes` would exceed max_page_bytes; it always has at least one
    message.
    Returns True if items are left over. Calls `pause` at times, so that other calls run.
    """
    total_bytes, max_bytes, unpaused_bytes = used_bytes, max_page_bytes(limit), 0
    for count, fields in enumerate(items, start=1):
        size = page.add(**fields).ByteSize() + _ITEM_OVERHEAD_BYTES
        total_bytes += size
        if count > limit or (total_bytes > max_bytes and count > 1):
            del page[-1]
            return True
        unpaused_bytes += size
        if unpaused_bytes >= PAUSE_BYTES:
            unpaused_bytes = 0
            await pause()
    return False


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


def check_job(token_created_at: PgMicros | None, job_created_at: PgMicros) -> None:
    """Raise InvalidPageToken if the token (None: there is none) belongs to an earlier job."""
    if token_created_at is not None and token_created_at != job_created_at:
        raise InvalidPageToken(_OTHER_JOB)


def parse_pending_token(request: PagedRequest, device_id: str) -> list[Any]:
    """The status, queued_at and job_id of a token with the position (device_id, *these).

    None for each if there is no token. Raises InvalidPageToken, also for that of another device.
    """
    token_device_id, *position = parse_token(request, str, _parse_status, parse_micros, str)
    if token_device_id not in (None, device_id):
        raise InvalidPageToken(_OTHER_REQUEST)
    return position


def _parse_status(text: str) -> str:
    if text not in ("IN_PROGRESS", "QUEUED"):
        raise ValueError(f"{text} is not the status of a pending execution")
    return text


def id_token(request: PagedRequest, after_id: str) -> str:
    """The token for the page after the device or group with this id."""
    return page_token(request, after_id)


def parse_id_token(request: PagedRequest) -> str:
    """The id in request.page_token; "" if it is empty. Raises InvalidPageToken."""
    if not request.page_token:
        return ""
    try:
        (after_id,) = _decode(request)
    except ValueError:
        raise InvalidPageToken(_INVALID) from None
    return after_id


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
