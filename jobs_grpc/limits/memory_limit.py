"""Limits the bytes of requests and responses that a process holds in memory."""

from jobs_grpc.errors import Limit, LimitExceeded
from jobs_grpc.limits.fair_semaphore import FairSemaphore

# A unary call waits at most this long for bytes.
_MAX_WAIT_SECONDS = 5.0

_RETRY_AFTER_SECONDS = 1

# A tenant must leave as many bytes free as it holds, rounded down to a sixteenth of the limit. So
# at most 16 tenants have a reserve, and a release examines few waiting tenants.
_PARTS = 16

# A decoded message takes up to this many times its encoded size: a list whose elements have an
# empty Struct each. Text takes no more than its encoded size.
_DECODED_RATIO = 30


def receive_bytes(max_request_bytes: int) -> int:
    """The size up to which gRPC receives a request.

    More than the limit, because a rejection by gRPC has no reason and no line in the log.
    """
    return 2 * max_request_bytes


def decoded_bytes(size: int) -> int:
    """The maximum memory of a decoded message, from its encoded size."""
    return _DECODED_RATIO * size


def response_bytes(size: int) -> int:
    """The memory of an encoded response until it is sent: gRPC makes a copy."""
    return 2 * size


class MemoryLimit(FairSemaphore):
    """At most `max_bytes` in total and `max_tenant_bytes` of each tenant.

    A tenant may reserve bytes while it holds less than its limit, and while the bytes that it
    holds, rounded down to a sixteenth of the limit, are less than the free bytes. So one tenant
    alone leaves at least half of the bytes to others, and two leave almost a third. No call is too
    large for an idle server, because the last reservation may exceed the limits.
    """

    def __init__(self, max_bytes: int, max_tenant_bytes: int) -> None:
        step = max(1, max_bytes // _PARTS)
        super().__init__(max_bytes, lambda held: held - held % step, max_tenant_bytes)
        self._max_tenant_bytes = max_tenant_bytes

    def limit_exceeded(self, tenant_id: str) -> LimitExceeded:
        """Return the error of a call that has waited for too long: it names the limit."""
        if self.held_by(tenant_id) >= self._max_tenant_bytes:
            return LimitExceeded(Limit.TENANT_MEMORY, self._max_tenant_bytes, _RETRY_AFTER_SECONDS)
        return LimitExceeded(Limit.MEMORY, self.capacity, _RETRY_AFTER_SECONDS)


class Reservation:
    """The bytes that a call, or one message of a stream, holds."""

    __slots__ = ("_limit", "_size", "_tenant_id")

    def __init__(self, limit: MemoryLimit, tenant_id: str) -> None:
        self._limit = limit
        self._tenant_id = tenant_id
        self._size = 0

    async def add(self, size: int, max_wait: float | None = _MAX_WAIT_SECONDS) -> None:
        """Hold `size` more bytes, after a wait of up to `max_wait` seconds (None: any time).

        Raises LimitExceeded.
        """
        try:
            await self._limit.take(self._tenant_id, size, max_wait)
        except TimeoutError:
            raise self._limit.limit_exceeded(self._tenant_id) from None
        self._size += size

    def try_set_size(self, size: int) -> bool:
        """Hold `size` bytes in total without waiting. Returns False if nothing is held.

        Succeeds if the reservation holds bytes already, whatever the limits are.
        """
        if self._size:
            self.set_size(size)
        elif self._limit.try_take(self._tenant_id, size):
            self._size = size
        return bool(self._size)

    async def resize(self, size: int) -> None:
        """Hold `size` bytes; waits if that is more. Raises LimitExceeded."""
        limit, tenant_id = self._limit, self._tenant_id
        if size <= self._size or (
            limit.may_take(tenant_id, returned=self._size) and not limit.waiting
        ):
            self.set_size(size)
        elif not self._size:
            await self.add(size)
        else:
            try:
                await limit.take_as_holder(tenant_id, self._size, size, _MAX_WAIT_SECONDS)
            except TimeoutError:
                raise limit.limit_exceeded(tenant_id) from None
            limit.release(tenant_id, self._size)
            self._size = size

    def set_size(self, size: int) -> None:
        """Hold `size` bytes without waiting, also if that is more than before."""
        if size != self._size:
            self._limit.change_held(self._tenant_id, size - self._size)
            self._size = size

    def release(self) -> None:
        """Hold nothing."""
        self.set_size(0)
