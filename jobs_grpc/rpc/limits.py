"""Limits the calls and streams that are open at the same time. Health checks always pass."""

import abc
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

from jobs_grpc.auth.policy import is_public
from jobs_grpc.auth.principal import current_principal
from jobs_grpc.config import Config
from jobs_grpc.errors import LimitExceeded
from jobs_grpc.rpc.interceptor import Handler, Interceptor, run_inside

_RETRY_AFTER_SECONDS = 1


class ConcurrencyLimiter:
    """Counts what is open by key and rejects more than `limit` per key.

    LimitExceeded has `message` and the name of the `setting`. Keys with nothing open take no
    memory.
    """

    def __init__(self, message: str, setting: str, limit: int) -> None:
        self._message = message
        self._setting = setting
        self._limit = limit
        self._open: dict[object, int] = {}

    def __len__(self) -> int:
        """The number of keys that have something open."""
        return len(self._open)

    @contextmanager
    def acquire(self, key: object) -> Iterator[None]:
        """Count one more for `key` during the block. Raises LimitExceeded."""
        count = self._open.get(key, 0)
        if count >= self._limit:
            raise LimitExceeded(self._message, self._setting, self._limit, _RETRY_AFTER_SECONDS)
        self._open[key] = count + 1
        try:
            yield
        finally:
            if self._open[key] == 1:
                del self._open[key]
            else:
                self._open[key] -= 1


class _ConcurrencyLimits(Interceptor, abc.ABC):
    """Runs each call inside the limits of a subclass."""

    @abc.abstractmethod
    def _acquire(self, streaming: bool) -> AbstractContextManager[None]:
        """Count a call, or a stream if `streaming`. Raises LimitExceeded."""

    def _acquire_public(self, streaming: bool) -> AbstractContextManager[None]:
        """The same for a public method."""
        return nullcontext()

    def wrap_handler(self, method: str, handler: Handler) -> Handler:
        """Count each call of the handler."""
        streaming = handler.request_streaming or handler.response_streaming
        acquire = self._acquire_public if is_public(method) else self._acquire
        return run_inside(handler, lambda _: acquire(streaming))


class ServerLimits(_ConcurrencyLimits):
    """Limits the calls and streams of all callers together.

    Runs before authentication, so it also limits unauthenticated callers.
    """

    def __init__(self, config: Config) -> None:
        self._calls = ConcurrencyLimiter(
            "The server has too many calls in flight", "JOBS_MAX_CALLS", config.limits.max_calls
        )
        self._streams = ConcurrencyLimiter(
            "The server has too many open streams", "JOBS_MAX_STREAMS", config.limits.max_streams
        )
        # Counted separately, so that unauthenticated callers cannot use up the other limits.
        self._public_streams = ConcurrencyLimiter(
            "The server has too many open health and reflection streams",
            "JOBS_MAX_CALLS",
            config.limits.max_calls,
        )

    def _acquire(self, streaming: bool) -> AbstractContextManager[None]:
        return (self._streams if streaming else self._calls).acquire(None)

    def _acquire_public(self, streaming: bool) -> AbstractContextManager[None]:
        return self._public_streams.acquire(None) if streaming else nullcontext()


class TenantLimits(_ConcurrencyLimits):
    """Limits the calls and streams of a tenant, and the streams of a device."""

    def __init__(self, config: Config) -> None:
        self._calls = ConcurrencyLimiter(
            "The tenant has too many calls in flight",
            "JOBS_MAX_TENANT_CALLS",
            config.limits.max_tenant_calls,
        )
        self._streams = ConcurrencyLimiter(
            "The tenant has too many open streams",
            "JOBS_MAX_TENANT_STREAMS",
            config.limits.max_tenant_streams,
        )
        self._device_streams = ConcurrencyLimiter(
            "The device has too many open streams",
            "JOBS_MAX_DEVICE_STREAMS",
            config.limits.max_device_streams,
        )

    def _acquire(self, streaming: bool) -> AbstractContextManager[None]:
        caller = current_principal()
        if not streaming:
            return self._calls.acquire(caller.tenant_id)
        if caller.device_id is None:
            return self._streams.acquire(caller.tenant_id)
        return self._acquire_device_stream(caller.tenant_id, caller.device_id)

    @contextmanager
    def _acquire_device_stream(self, tenant_id: str, device_id: str) -> Iterator[None]:
        with (
            self._streams.acquire(tenant_id),
            self._device_streams.acquire((tenant_id, device_id)),
        ):
            yield
