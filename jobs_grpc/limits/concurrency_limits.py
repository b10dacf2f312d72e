"""Limits on calls in flight and open streams."""

from jobs_grpc.auth.principal import Principal
from jobs_grpc.config import LimitsConfig
from jobs_grpc.errors import Limit, LimitExceeded
from jobs_grpc.limits.memory_limit import Reservation, receive_bytes

_RETRY_AFTER_SECONDS = 1

# Reflection, which needs no credentials, may use a sixteenth of JOBS_MAX_BUFFERED_BYTES.
_PUBLIC_SHARE = 16


class ConcurrencyLimiter:
    """Counts what is open for each key, up to a limit. Keeps nothing for idle keys."""

    def __init__(self, limit: Limit, count: int, value: int | None = None) -> None:
        """Count up to `count`. Errors name the `value` of the setting, which is `count` if None."""
        self._limit = limit
        self._max_count = count
        self._value = count if value is None else value
        self._open: dict[object, int] = {}

    def __len__(self) -> int:
        """Return the number of keys with something open."""
        return len(self._open)

    def __contains__(self, key: object) -> bool:
        """Whether the key has something open."""
        return key in self._open

    def used_share(self, key: object) -> float:
        """Return the share of its limit that the key uses, 0–1."""
        return self._open.get(key, 0) / self._max_count

    def acquire(self, key: object) -> None:
        """Count one more. Raises LimitExceeded if the key is at the limit."""
        count = self._open.get(key, 0)
        if count >= self._max_count:
            raise LimitExceeded(self._limit, self._value, _RETRY_AFTER_SECONDS)
        self._open[key] = count + 1

    def release(self, key: object) -> None:
        """Count one less."""
        if self._open[key] == 1:
            del self._open[key]
        else:
            self._open[key] -= 1


class Permits:
    """What one call has acquired.

    It is released when the task of the call ends, after gRPC has sent the response, if not before.
    So a client that does not read its response keeps its permits.
    """

    def __init__(self) -> None:
        self._acquired: list[tuple[ConcurrencyLimiter, object]] = []
        self._reservation: Reservation | None = None

    def acquire(self, limiter: ConcurrencyLimiter, key: object) -> None:
        """Acquire from `limiter`. Raises LimitExceeded."""
        limiter.acquire(key)
        self._acquired.append((limiter, key))

    def keep(self, reservation: Reservation) -> None:
        """Keep the bytes of the call reserved."""
        self._reservation = reservation

    def release(self) -> None:
        """Release everything that the call has acquired."""
        if self._reservation is not None:
            self._reservation.release()
        while self._acquired:
            limiter, key = self._acquired.pop()
            limiter.release(key)


class CallLimits:
    """The limits of the server, of each tenant and of each device."""

    def __init__(self, config: LimitsConfig) -> None:
        self._calls = ConcurrencyLimiter(Limit.CALLS, config.max_calls)
        self._streams = ConcurrencyLimiter(Limit.STREAMS, config.max_streams)
        # A load balancer's health check must succeed although other clients do not read their
        # responses. So one check of each connection is always served; only more are limited.
        self._first_health_checks = ConcurrencyLimiter(Limit.HEALTH_CHECKS, 1)
        self._more_health_checks = ConcurrencyLimiter(Limit.HEALTH_CHECKS, config.max_calls)
        # Counted separately: anonymous callers must not use up what authenticated callers need.
        self._public_streams = ConcurrencyLimiter(Limit.PUBLIC_STREAMS, config.max_calls)
        self._tenant_calls = ConcurrencyLimiter(Limit.TENANT_CALLS, config.max_tenant_calls)
        self._tenant_streams = ConcurrencyLimiter(Limit.TENANT_STREAMS, config.max_tenant_streams)
        self._device_streams = ConcurrencyLimiter(Limit.DEVICE_STREAMS, config.max_device_streams)

        # gRPC can receive a part of a message of each stream that sends requests. Streams are
        # open for long, so they are counted instead of reserved from the memory limit. By default,
        # they can hold at most as much as that limit.
        stream_bytes = receive_bytes(config.max_request_bytes)
        self._public_request_streams = ConcurrencyLimiter(
            Limit.REFLECTION_STREAMS,
            max(1, config.max_buffered_bytes // _PUBLIC_SHARE // stream_bytes),
            config.max_buffered_bytes,
        )
        self._request_streams = ConcurrencyLimiter(
            Limit.REPORT_STREAMS,
            config.max_report_streams or max(1, config.max_buffered_bytes // stream_bytes),
        )
        self._tenant_request_streams = ConcurrencyLimiter(
            Limit.TENANT_REPORT_STREAMS,
            config.max_tenant_report_streams
            or max(1, config.max_tenant_buffered_bytes // stream_bytes),
        )

    def load(self, tenant_id: str) -> float:
        """Return the load on unary calls of the tenant, 0–1.

        It is the share of JOBS_MAX_CALLS or of JOBS_MAX_TENANT_CALLS that is in flight, whichever
        is larger. Calls that wait for a slot, a connection or memory are in flight.
        """
        return max(self._calls.used_share(None), self._tenant_calls.used_share(tenant_id))

    def acquire_public(
        self, permits: Permits, connection: str, *, stream: bool, request_stream: bool
    ) -> None:
        """Count a call of a public method. Raises LimitExceeded.

        `stream`: requests or responses are a stream; `request_stream`: requests are one.
        """
        if stream:
            permits.acquire(self._public_streams, None)
            if request_stream:
                permits.acquire(self._public_request_streams, None)
        elif connection in self._first_health_checks:
            permits.acquire(self._more_health_checks, None)
        else:
            permits.acquire(self._first_health_checks, connection)

    def acquire_server(self, permits: Permits, *, stream: bool) -> None:
        """Count a call before its caller is authenticated. Raises LimitExceeded."""
        permits.acquire(self._streams if stream else self._calls, None)

    def acquire_tenant(
        self, permits: Permits, caller: Principal, *, stream: bool, request_stream: bool
    ) -> None:
        """Count a call of an authenticated caller. Raises LimitExceeded."""
        if not stream:
            permits.acquire(self._tenant_calls, caller.tenant_id)
            return
        if request_stream:
            permits.acquire(self._tenant_request_streams, caller.tenant_id)
            permits.acquire(self._request_streams, None)
        permits.acquire(self._tenant_streams, caller.tenant_id)
        if caller.device_id is not None:
            permits.acquire(self._device_streams, (caller.tenant_id, caller.device_id))
