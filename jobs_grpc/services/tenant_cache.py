"""Keeps responses that are costly to compute, for each tenant."""

import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

from google.protobuf.message import Message

from jobs_grpc.services.single_flight import SingleFlight

R = TypeVar("R", bound=Message)

# Bytes of an entry besides its response and tenant ID.
_ENTRY_BYTES = 500


class TenantCache(Generic[R]):
    """The last response of a method for each tenant, and one computation at a time for a tenant.

    Calls that arrive during a computation share it: see SingleFlight.
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
        self._running: SingleFlight[str, R] = SingleFlight()

    async def get(
        self, tenant_id: str, compute: Callable[[], Awaitable[R]], *, keep: Callable[[R], bool]
    ) -> R:
        """Return the response of the tenant, computed at most `max_age` ago.

        `keep` says whether to keep a response that was computed.
        """
        started_at, encoded = self._entries.get(tenant_id, (0.0, None))
        if encoded is not None and self._clock() - started_at < self._max_age:
            return self._parse(encoded)

        async def compute_and_store() -> R:
            started_at = self._clock()
            response = await compute()
            if keep(response) and self._running.is_open(tenant_id):
                self._store(tenant_id, started_at, response.SerializeToString())
            return response

        return await self._running.run(tenant_id, compute_and_store)

    def invalidate(self, tenant_id: str) -> None:
        """Let calls that arrive from now on get a response that is computed from now on."""
        self._drop(tenant_id)
        self._running.close(tenant_id)

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
