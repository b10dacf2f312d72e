"""Pages: keyset cursors as opaque tokens, and answers that fit a message."""

import base64
import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

from google.protobuf.message import Message

from jobs_grpc.errors import InvalidPageToken

# gRPC clients take messages of 4 MiB by default. The rest is for the page token.
MAX_ANSWER_BYTES = 4 * 1024 * 1024 - 4096

# A repeated message costs its field tag and length besides itself.
_ITEM_OVERHEAD = 6

# Microseconds, some two thousand years either way, which PostgreSQL takes as well.
_MAX_MOMENT = 2**56

_FOREIGN = "page_token is not one that this service made"

_UNSTORABLE = re.compile("[\0\ud800-\udfff]")


def fill(page: Any, items: Iterable[Mapping[str, Any]], limit: int) -> bool:
    """Add items to `page`, a repeated field, up to `limit` and to the size of an answer.

    An item is the fields of a message. True if items are left over.
    """
    return keep(page, (page.add(**fields).ByteSize() for fields in items), limit)


def keep(page: Any, sizes: Iterable[int], limit: int, used: int = 0) -> bool:
    """Have items added to `page` up to `limit` and to the size of an answer.

    At each step `sizes` adds an item to the page and yields its size in bytes. `used` is that
    of what else the answer holds. True if items are left over.
    """
    size = used
    for number, size_of_item in enumerate(sizes, start=1):
        size += size_of_item + _ITEM_OVERHEAD
        if number > limit or (size > MAX_ANSWER_BYTES and number > 1):
            del page[-1]
            return True
    return False


def moment_token(request: Message, moment: int, job_id: str) -> str:
    """The cursor of a list by time, after this key; good for `request` and its next pages."""
    return _encode(request, str(moment), job_id)


def moment_position(token: str, request: Message) -> tuple[int, str]:
    """The key in a moment_token. Raises InvalidPageToken."""
    try:
        written, job_id = _decode(token, request)
        moment = int(written)
        if abs(moment) <= _MAX_MOMENT:
            return moment, job_id
    except ValueError:
        pass
    raise InvalidPageToken(_FOREIGN)


def device_token(request: Message, after_device_id: str) -> str:
    """The cursor of a list by device, after this one ("": from the first)."""
    return _encode(request, after_device_id)


def device_position(token: str, request: Message) -> str:
    """The device_id in a device_token. Raises InvalidPageToken."""
    try:
        (after_device_id,) = _decode(token, request)
    except ValueError:
        raise InvalidPageToken(_FOREIGN) from None
    return after_device_id


def _encode(request: Message, *position: str) -> str:
    raw = json.dumps([_digest(request), *position], separators=(",", ":"))
    return base64.urlsafe_b64encode(raw.encode()).decode().rstrip("=")


def _decode(token: str, request: Message) -> list[str]:
    try:
        raw = base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True)
        parts = json.loads(raw)
    except (ValueError, RecursionError):
        raise InvalidPageToken(_FOREIGN) from None
    if not isinstance(parts, list) or not parts or not all(_is_text(part) for part in parts):
        raise InvalidPageToken(_FOREIGN)
    digest, *position = parts
    if digest != _digest(request):
        raise InvalidPageToken("page_token was made for another request; start without one")
    return position


def _is_text(part: object) -> bool:
    """Text that PostgreSQL takes: no U+0000 and no half of a surrogate pair."""
    return isinstance(part, str) and not _UNSTORABLE.search(part)


def _digest(request: Message) -> str:
    """Tells requests apart that differ in more than where the page is."""
    filters = type(request)()
    filters.CopyFrom(request)
    for field in ("limit", "offset", "page_token"):
        if field in request.DESCRIPTOR.fields_by_name:
            filters.ClearField(field)
    raw = request.DESCRIPTOR.full_name.encode() + filters.SerializeToString(deterministic=True)
    return hashlib.sha256(raw).hexdigest()[:16]
