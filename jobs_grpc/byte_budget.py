"""Limits the bytes of requests and responses that a process holds in memory."""

from jobs_grpc.errors import LimitExceeded
from jobs_grpc.tenant_queue import TenantQueue

# A unary call waits at most this long for its turn.
_MAX_WAIT_SECONDS = 5.0

_RETRY_AFTER_SECONDS = 1

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


class ByteBudget:
    """At most `max_bytes` in total and `max_tenant_bytes` of each tenant.

    A tenant may reserve bytes while it holds less than its limit and less than what is free. So
    one tenant alone leaves at least half of the budget to others, and two leave a third. The last
    reservation may exceed the limit: no call is too large for an idle server. Calls that
    have to wait take turns by tenant; those of one tenant are FIFO. Idle tenants take no memory.
    """

    def __init__(self, max_bytes: int, max_tenant_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._max_tenant_bytes = max_tenant_bytes
        self._free = max_bytes
        self._held: dict[str, int] = {}
        # Invariant: no waiting tenant may reserve bytes.
        self._queue = TenantQueue()
        # Calls that hold bytes and wait for more, and what those of each tenant hold.
        self._growing = TenantQueue()
        self._growing_bytes: dict[str, int] = {}

    @property
    def held(self) -> int:
        """The bytes that all calls hold."""
        return self._max_bytes - self._free

    @property
    def max_bytes(self) -> int:
        """The bytes that all calls may hold."""
        return self._max_bytes

    @property
    def waiting(self) -> int:
        """The number of calls and messages that wait for bytes."""
        return self._queue.waiting + self._growing.waiting

    async def take(self, tenant_id: str, size: int, max_wait: float | None) -> None:
        """Take bytes, after waiting for a turn if necessary. Raises LimitExceeded."""
        if self.try_take(tenant_id, size):
            return
        try:
            await self._queue.wait(
                tenant_id, lambda: self.adjust(tenant_id, -size), size=size, max_wait=max_wait
            )
        except TimeoutError:
            raise self._limit_exceeded(tenant_id) from None

    def try_take(self, tenant_id: str, size: int) -> bool:
        """Take bytes without waiting. Returns False if the tenant would have to wait."""
        if not self._may_take(tenant_id):
            return False
        self.adjust(tenant_id, size)
        return True

    def adjust(self, tenant_id: str, size: int) -> None:
        """Count bytes that a tenant holds, whatever the limits are. A negative size frees them."""
        self._free -= size
        held = self._held.get(tenant_id, 0) + size
        if held:
            self._held[tenant_id] = held
        else:
            self._held.pop(tenant_id, None)
        if size < 0 and (self._queue or self._growing):
            self._wake_waiters()

    async def grow(self, tenant_id: str, held: int, size: int) -> None:
        """Take `size` bytes for a call that holds `held` bytes, which it must free afterwards.

        What it holds stays counted while it waits. To prevent a deadlock of such calls, one call of
        a tenant proceeds when the tenant holds no other bytes. Raises LimitExceeded.
        """
        self._growing_bytes[tenant_id] = self._growing_bytes.get(tenant_id, 0) + held
        try:
            self._wake_waiters()
            if self._may_go_on(tenant_id):
                self.adjust(tenant_id, size)
            else:
                await self._growing.wait(
                    tenant_id,
                    lambda: self.adjust(tenant_id, -size),
                    size=size,
                    max_wait=_MAX_WAIT_SECONDS,
                )
        except TimeoutError:
            raise self._limit_exceeded(tenant_id) from None
        finally:
            self._growing_bytes[tenant_id] -= held
            if not self._growing_bytes[tenant_id]:
                del self._growing_bytes[tenant_id]

    def _wake_waiters(self) -> None:
        for queue, may_take in (
            (self._growing, self._may_go_on),
            (self._queue, self._may_take),
        ):
            while queue and (waiter := queue.wake_next(may_take)) is not None:
                self.adjust(waiter.tenant_id, waiter.size)

    def _may_go_on(self, tenant_id: str) -> bool:
        return self._may_take(tenant_id) or (
            self._held.get(tenant_id, 0) == self._growing_bytes.get(tenant_id, 0)
        )

    def may_grow(self, tenant_id: str, size: int) -> bool:
        """Whether a reservation of `size` bytes may become larger without a wait."""
        held = self._held.get(tenant_id, 0) - size
        waiting = self._queue or self._growing
        return held < self._max_tenant_bytes and held < self._free + size and not waiting

    def _may_take(self, tenant_id: str) -> bool:
        held = self._held.get(tenant_id, 0)
        return held < self._max_tenant_bytes and held < self._free

    def _limit_exceeded(self, tenant_id: str) -> LimitExceeded:
        if self._held.get(tenant_id, 0) >= self._max_tenant_bytes:
            return LimitExceeded(
                "The requests and unread responses of the tenant take too much memory",
                "JOBS_MAX_TENANT_BUFFERED_BYTES",
                self._max_tenant_bytes,
                _RETRY_AFTER_SECONDS,
            )
        return LimitExceeded(
            "The requests and unread responses of all callers take too much memory",
            "JOBS_MAX_BUFFERED_BYTES",
            self._max_bytes,
            _RETRY_AFTER_SECONDS,
        )


class Reservation:
    """The bytes that a call, or one message of a stream, holds."""

    __slots__ = ("_budget", "_size", "_tenant_id")

    def __init__(self, budget: ByteBudget, tenant_id: str) -> None:
        self._budget = budget
        self._tenant_id = tenant_id
        self._size = 0

    async def add(self, size: int, max_wait: float | None = _MAX_WAIT_SECONDS) -> None:
        """Hold `size` more bytes; waits up to `max_wait` seconds (None: any time) for a turn.

        Raises LimitExceeded.
        """
        await self._budget.take(self._tenant_id, size, max_wait)
        self._size += size

    def try_hold(self, size: int) -> bool:
        """Hold `size` bytes without waiting, and return whether it does.

        Always possible if it holds some already.
        """
        if self._size:
            self.correct(size)
        elif self._budget.try_take(self._tenant_id, size):
            self._size = size
        return bool(self._size)

    async def resize(self, size: int) -> None:
        """Hold `size` bytes; waits for a turn if that is more. Raises LimitExceeded."""
        if size <= self._size or self._budget.may_grow(self._tenant_id, self._size):
            self.correct(size)
        elif not self._size:
            await self.add(size)
        else:
            await self._budget.grow(self._tenant_id, self._size, size)
            self._budget.adjust(self._tenant_id, -self._size)
            self._size = size

    def correct(self, size: int) -> None:
        """Hold `size` bytes without waiting, also if that is more than before."""
        if size != self._size:
            self._budget.adjust(self._tenant_id, size - self._size)
            self._size = size

    def release(self) -> None:
        """Hold nothing."""
        self.correct(0)
