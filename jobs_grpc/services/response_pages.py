"""Fills the pages of the list methods, up to a number of items and of bytes.

Default and maximum page sizes are options of the `limit` fields in the contract.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from jobs_grpc.limits.fair_slots import Pause

# gRPC clients accept messages of up to 4 MiB by default. 4 KiB are reserved for the page token.
MAX_RESPONSE_BYTES = 4 * 1024 * 1024 - 4096

# A page has no more than this per item that was asked for, so that a call with a low limit needs
# little of the memory limit. Two documents of nearly the default maximum fit in an item.
MAX_ITEM_BYTES = 64 * 1024

# A message in a repeated field also takes a field tag and a length.
_ITEM_OVERHEAD_BYTES = 6

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
