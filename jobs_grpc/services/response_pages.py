"""Fills the pages of the list methods, up to a number of items and of bytes.

Default and maximum page sizes are options of the `limit` fields in the contract.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from jobs_grpc.db.store import Row
from jobs_grpc.limits.fair_slots import YieldNow

# gRPC clients accept messages of up to 4 MiB by default. 4 KiB are reserved for the page token.
MAX_RESPONSE_BYTES = 4 * 1024 * 1024 - 4096

# A page has no more than this per item that was asked for, so that a call with a low limit needs
# little of the memory limit. Two documents of nearly the default maximum fit in an item.
MAX_ITEM_BYTES = 64 * 1024

# An element is an entry of a list, a label or a value of a document. It takes up to 128 bytes of
# memory beyond its text, but few on the wire. With these limits, the bytes that are reserved for a
# page also cover its elements.
_MAX_ELEMENTS = 20_000
_MAX_ITEM_ELEMENTS = 2 * MAX_ITEM_BYTES // 128

# The columns of rows that contain JSON of any length.
_JSON_COLUMNS = ("document_params", "status_details", "labels", "details")

# An element takes about as long to convert as a text of this size.
_ELEMENT_BYTES = 32

# A message in a repeated field also takes a field tag and a length.
_ITEM_OVERHEAD_BYTES = 6

BYTES_PER_YIELD = 32 * 1024
"""Bytes of a page that are converted between two calls of yield_now; see also conversion_bytes."""


def max_page_bytes(limit: int) -> int:
    """The maximum size of a page of up to `limit` items, and of the message around them."""
    return min((max(limit, 0) + 1) * MAX_ITEM_BYTES, MAX_RESPONSE_BYTES)


def max_page_elements(limit: int) -> int:
    """The maximum number of elements of a page of up to `limit` items."""
    return min((max(limit, 0) + 1) * _MAX_ITEM_ELEMENTS, _MAX_ELEMENTS)


def json_elements(text: str) -> int:
    """An upper bound for the number of elements of a document, quickly."""
    return text.count(",") + text.count("{") + text.count("[")


def conversion_bytes(size: int, elements: int) -> int:
    """The size of a text that takes as long to convert as a message of this size."""
    return size + elements * _ELEMENT_BYTES


def _row_elements(row: Row) -> int:
    elements = len(row.get("group_ids") or ())
    return elements + sum(json_elements(row.get(column) or "") for column in _JSON_COLUMNS)


async def fill_page(
    page: Any,
    rows: Iterable[Row],
    fields: Callable[[Row], Mapping[str, Any]],
    limit: int,
    yield_now: YieldNow,
    *,
    used_bytes: int = 0,
) -> bool:
    """Add messages to `page`, a repeated field, until it is full.

    `fields` returns the field values of a row's message. The page is full when it has `limit`
    messages or when the next one would exceed max_page_elements, or with `used_bytes`
    max_page_bytes; it always has at least one message.
    Returns True if rows are left over. Calls `yield_now` at times, so that other calls run.
    """
    total_bytes, max_bytes, bytes_since_yield = used_bytes, max_page_bytes(limit), 0
    total_elements, max_elements = 0, max_page_elements(limit)
    for count, row in enumerate(rows, start=1):
        elements = _row_elements(row)
        total_elements += elements
        if count > limit or (total_elements > max_elements and count > 1):
            return True
        size = page.add(**fields(row)).ByteSize() + _ITEM_OVERHEAD_BYTES
        total_bytes += size
        if total_bytes > max_bytes and count > 1:
            del page[-1]
            return True
        bytes_since_yield += conversion_bytes(size, elements)
        if bytes_since_yield >= BYTES_PER_YIELD:
            bytes_since_yield = 0
            await yield_now()
    return False
