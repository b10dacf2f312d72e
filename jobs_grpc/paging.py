"""Pages: keyset cursors as opaque tokens, and answers that fit a message."""

import base64
import hashlib
import json
import re
from collections.abc import Iterable, MutableSequence
from datetime import UTC, datetime
from typing import Protocol, TypeVar

from jobs_grpc.errors import InvalidPageToken

# gRPC clients take messages of 4 MiB by default. The rest is for the page token.
MAX_ANSWER_BYTES = 4 * 1024 * 1024 - 4096

# A repeated message costs its field tag and length besides itself.
_ITEM_OVERHEAD = 6


class _Message(Protocol):
    def ByteSize(self) -> int: ...


_FOREIGN = "page_token is not one that this service made"

_UNSTORABLE = re.compile("[\0\ud800-\udfff]")

T = TypeVar("T", bound=_Message)


def fill(page: MutableSequence[T], items: Iterable[T], limit: int, used: int = 0) -> bool:
    """Append items to `page`, up to `limit` and to the size of an answer.

    `used` is the size in bytes of what else the answer holds. True if items are left over.
    """
    size = used
    for item in items:
        size += item.ByteSize() + _ITEM_OVERHEAD
        if len(page) == limit or (size > MAX_ANSWER_BYTES and page):
            return True
        page.append(item)
    return False


def jobs_token(status: int, created_at: datetime, job_id: str) -> str:
    """The cursor of ListJobs after the job with this key."""
    return _encode(("jobs", status), created_at.isoformat(), job_id)


def jobs_position(token: str, status: int) -> tuple[datetime, str]:
    """The key in a jobs_token. Raises InvalidPageToken."""
    try:
        created_at, job_id = _decode(token, ("jobs", status))
        moment = datetime.fromisoformat(created_at)
        if moment.tzinfo is not None:
            return moment.astimezone(UTC), job_id
    except (ValueError, OverflowError):
        pass
    raise InvalidPageToken(_FOREIGN)


def executions_token(job_id: str, status: int, after_device_id: str) -> str:
    """The cursor of ListJobExecutions after a device ("": from the first)."""
    return _encode(("executions", job_id, status), after_device_id)


def executions_position(token: str, job_id: str, status: int) -> str:
    """The device_id in an executions_token. Raises InvalidPageToken."""
    try:
        (after_device_id,) = _decode(token, ("executions", job_id, status))
    except ValueError:
        raise InvalidPageToken(_FOREIGN) from None
    return after_device_id


def _encode(filters: tuple[object, ...], *position: str) -> str:
    raw = json.dumps([_digest(filters), *position], separators=(",", ":"))
    return base64.urlsafe_b64encode(raw.encode()).decode().rstrip("=")


def _decode(token: str, filters: tuple[object, ...]) -> list[str]:
    try:
        raw = base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True)
        parts = json.loads(raw)
    except (ValueError, RecursionError):
        raise InvalidPageToken(_FOREIGN) from None
    if not isinstance(parts, list) or not parts or not all(_is_text(part) for part in parts):
        raise InvalidPageToken(_FOREIGN)
    digest, *position = parts
    if digest != _digest(filters):
        raise InvalidPageToken("page_token was made for another request; start without one")
    return position


def _is_text(part: object) -> bool:
    """Text that PostgreSQL takes: no U+0000 and no half of a surrogate pair."""
    return isinstance(part, str) and not _UNSTORABLE.search(part)


def _digest(filters: tuple[object, ...]) -> str:
    return hashlib.sha256(repr(filters).encode()).hexdigest()[:16]
