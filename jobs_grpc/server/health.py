"""grpc.health.v1: SERVING while the readiness check succeeds, NOT_SERVING otherwise."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any

from grpc_health.v1 import health_pb2
from grpc_health.v1.health import aio as health_aio

from jobs_grpc.db.readiness import NotReady

logger = logging.getLogger(__name__)

_SERVING = health_pb2.HealthCheckResponse.SERVING
_NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING

# Seconds that a stop waits until all watchers have received the last status.
_NOTIFY_TIMEOUT = 1.0


class _HealthServicer(health_aio.HealthServicer):
    """The library's servicer, with a Watch that a slow watcher cannot block.

    The library writes to each watcher while it holds the lock that a status change needs.
    """

    _server_status: Any
    _server_watchers: Any
    _watcher_count_by_service: Any

    def __init__(self) -> None:
        super().__init__()
        # For each watcher the service that it watches and the status that it received last.
        self._sent: dict[object, tuple[str, Any]] = {}
        self._sent_changed = asyncio.Event()

    async def wait_until_sent(self, timeout: float) -> None:  # noqa: ASYNC109
        """Return when all watchers have received the current status, or after the timeout."""
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                while any(self._status(service) != sent for service, sent in self._sent.values()):
                    self._sent_changed.clear()
                    await self._sent_changed.wait()

    async def Watch(self, request: health_pb2.HealthCheckRequest, context: Any) -> None:
        service, sent = request.service, None
        changed = self._server_watchers[service]
        self._watcher_count_by_service[service] += 1
        watcher = object()
        self._sent[watcher] = (service, sent)
        try:
            while True:
                async with changed:
                    await changed.wait_for(lambda: self._status(service) != sent)  # noqa: B023
                    sent = self._status(service)
                await context.write(health_pb2.HealthCheckResponse(status=sent))
                self._sent[watcher] = (service, sent)
                self._sent_changed.set()
        finally:
            del self._sent[watcher]
            self._sent_changed.set()
            self._watcher_count_by_service[service] -= 1
            if self._watcher_count_by_service[service] == 0:
                del self._server_watchers[service]
                del self._watcher_count_by_service[service]

    def _status(self, service: str) -> Any:
        return self._server_status.get(service, health_pb2.HealthCheckResponse.SERVICE_UNKNOWN)


class Health:
    """Runs `check` at an interval and sets the status of the server ("") and of `services`.

    `check` raises NotReady while the service cannot serve calls.
    """

    def __init__(
        self,
        check: Callable[[], Awaitable[None]],
        services: Sequence[str],
        interval: float = 1.0,
    ) -> None:
        self.servicer = _HealthServicer()
        self._check = check
        self._services = ("", *services)
        self._interval = interval
        self._problem: str | None = "not checked yet"
        self.serving = asyncio.Event()

    async def start(self) -> None:
        """Report NOT_SERVING; a new servicer reports SERVING."""
        await self._set(_NOT_SERVING)

    async def run(self) -> None:
        """Check every `interval` seconds, until canceled.

        Raises what `check` raises other than NotReady, after reporting NOT_SERVING.
        """
        while True:
            try:
                await self._check()
                problem = None
            except NotReady as e:
                problem = str(e)
            except Exception:
                await self.stop()
                raise
            if problem != self._problem:
                self._problem = problem
                if problem is None:
                    logger.info("serving")
                else:
                    logger.warning("not serving: %s", problem)
                await self._set(_NOT_SERVING if problem else _SERVING)
                if problem is None:
                    self.serving.set()
            await asyncio.sleep(self._interval)

    async def stop(self) -> None:
        """Report NOT_SERVING from now on, and wait briefly until watchers have received it."""
        await self.servicer.enter_graceful_shutdown()
        await self.servicer.wait_until_sent(_NOTIFY_TIMEOUT)

    async def _set(self, status: int) -> None:
        for service in self._services:
            await self.servicer.set(service, status)
