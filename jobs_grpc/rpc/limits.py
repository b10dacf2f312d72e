"""How many calls and streams may be open at once. Health checks are never refused."""

import abc
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

from jobs_grpc.auth.policy import is_public
from jobs_grpc.auth.principal import current_principal
from jobs_grpc.config import Config
from jobs_grpc.errors import LimitExceeded
from jobs_grpc.rpc.interceptor import Handler, Interceptor, wrap

# Seconds after which who was refused may try again.
_RETRY_AFTER = 1


class ConcurrencyLimiter:
    """What is open now, by key. Of a key with nothing open, nothing is kept."""

    def __init__(self, what: str, setting: str, limit: int) -> None:
        self._what = what
        self._setting = setting
        self._limit = limit
        self._open: dict[object, int] = {}

    def __len__(self) -> int:
        """How many keys have anything open."""
        return len(self._open)

    @contextmanager
    def acquire(self, key: object) -> Iterator[None]:
        """For the time that one more is open; LimitExceeded if that would be too many."""
        before = self._open.get(key, 0)
        if before >= self._limit:
            raise LimitExceeded(self._what, self._setting, self._limit, _RETRY_AFTER)
        self._open[key] = before + 1
        try:
            yield
        finally:
            if self._open[key] == 1:
                del self._open[key]
            else:
                self._open[key] -= 1


class _Limits(Interceptor, abc.ABC):
    """Counts calls, and refuses those that are too many."""

    @abc.abstractmethod
    def _counted(self, streaming: bool) -> AbstractContextManager[None]:
        """For the time that one more call or stream is open."""

    def wrapped(self, method: str, handler: Handler) -> Handler:
        """Let nobody past a limit."""
        streaming = handler.request_streaming or handler.response_streaming
        counted = self._infrastructure if is_public(method) else self._counted
        return wrap(handler, lambda _: counted(streaming))

    def _infrastructure(self, streaming: bool) -> AbstractContextManager[None]:
        return nullcontext()


class ServerLimits(_Limits):
    """What all callers together may have open.

    Stands before authentication: who floods the server without credentials is bounded, too.
    """

    def __init__(self, config: Config) -> None:
        self._calls = ConcurrencyLimiter(
            "The server has too many calls in flight", "JOBS_MAX_CALLS", config.limits.max_calls
        )
        self._streams = ConcurrencyLimiter(
            "The server has too many open streams", "JOBS_MAX_STREAMS", config.limits.max_streams
        )
        # Apart, so that whoever opens them without credentials takes nothing from others.
        self._watches = ConcurrencyLimiter(
            "The server has too many open streams of health and reflection",
            "JOBS_MAX_CALLS",
            config.limits.max_calls,
        )

    def _counted(self, streaming: bool) -> AbstractContextManager[None]:
        return (self._streams if streaming else self._calls).acquire(None)

    def _infrastructure(self, streaming: bool) -> AbstractContextManager[None]:
        return self._watches.acquire(None) if streaming else nullcontext()


class TenantLimits(_Limits):
    """What a tenant, and a device of it, may have open."""

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

    def _counted(self, streaming: bool) -> AbstractContextManager[None]:
        caller = current_principal()
        if not streaming:
            return self._calls.acquire(caller.tenant_id)
        if caller.device_id is None:
            return self._streams.acquire(caller.tenant_id)
        return self._stream_of(caller.tenant_id, caller.device_id)

    @contextmanager
    def _stream_of(self, tenant_id: str, device_id: str) -> Iterator[None]:
        with (
            self._streams.acquire(tenant_id),
            self._device_streams.acquire((tenant_id, device_id)),
        ):
            yield
