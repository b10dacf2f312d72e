"""Keeps responses that are costly to compute, for each tenant."""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

from google.protobuf.message import Message

R = TypeVar("R", bound=Message)

# What an entry takes besides its response and the ID of its tenant.
_ENTRY_BYTES = 500


class TenantCache(Generic[R]):
    """The last response of a method for each tenant, and one computation at a time for a tenant.

    A call that arrives during a computation waits for its result. If the computation fails or its
    call is canceled, the next call that waits computes.
    """

    def __init__(
        self,
        response_type: type[R],
        *,
        max_age: float = 60.0,
        max_bytes: int = 4 * 1024 * 1024,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Keep responses for `max_age` seconds; drop the oldest ones beyond `max_bytes`."""
        self._parse = response_type.FromString
        self._max_age = max_age
        self._max_bytes = max_bytes
        self._clock = clock
        # When the computation began, and the encoded response. The oldest one is first.
        self._entries: OrderedDict[str, tuple[float, bytes]] = OrderedDict()
        self._bytes = 0
        self._running: dict[str, asyncio.Event] = {}

    async def get(
        self, tenant_id: str, compute: Callable[[], Awaitable[R]], *, keep: Callable[[R], bool]
    ) -> R:
        """Return the response of the tenant, computed at most `max_age` ago.

        `keep` says whether to keep a response that was computed.
        """
        while True:
            started_at, encoded = self._entries.get(tenant_id, (0.0, None))
            if encoded is not None and self._clock() - started_at < self._max_age:
                return self._parse(encoded)
            running = self._running.get(tenant_id)
            if running is None:
                break
            await running.wait()
        done = self._running[tenant_id] = asyncio.Event()
        try:
            started_at = self._clock()
            response = await compute()
            if keep(response):
                self._store(tenant_id, started_at, response.SerializeToString())
            return response
        finally:
            del self._running[tenant_id]
            done.set()

    def _store(self, tenant_id: str, started_at: float, encoded: bytes) -> None:
        self._drop(tenant_id)
        self._entries[tenant_id] = started_at, encoded
        self._bytes += _size(tenant_id, encoded)
        while self._bytes > self._max_bytes:
            self._drop(next(iter(self._entries)))

    def _drop(self, tenant_id: str) -> None:
        _, encoded = self._entries.pop(tenant_id, (0.0, None))
        if encoded is not None:
            self._bytes -= _size(tenant_id, encoded)


def _size(tenant_id: str, encoded: bytes) -> int:
    return len(encoded) + len(tenant_id) + _ENTRY_BYTES
