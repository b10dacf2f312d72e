"""Health: SERVING while the database is ready, and nothing else."""

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


# Seconds for which a stop waits for watchers to be told.
_TELLING_TIMEOUT = 1.0


class _Servicer(health_aio.HealthServicer):
    """The library's, but a watcher that does not read holds up nobody.

    The library writes to watchers while it holds the lock that a change of status needs.
    """

    _server_status: Any
    _server_watchers: Any
    _watcher_count_by_service: Any

    def __init__(self) -> None:
        super().__init__()
        # What each watcher was told last, and by when that may have changed.
        self._told: dict[object, tuple[str, Any]] = {}
        self._told_more = asyncio.Event()

    async def until_told(self, limit: float) -> None:
        """Return when all watchers know the status, or after `limit` seconds."""
        with suppress(TimeoutError):
            async with asyncio.timeout(limit):
                while any(self._status(name) != told for name, told in self._told.values()):
                    self._told_more.clear()
                    await self._told_more.wait()

    async def Watch(self, request: health_pb2.HealthCheckRequest, context: Any) -> None:
        service, told = request.service, None
        changed = self._server_watchers[service]
        self._watcher_count_by_service[service] += 1
        watcher = object()
        self._told[watcher] = (service, told)
        try:
            while True:
                async with changed:
                    await changed.wait_for(lambda: self._status(service) != told)  # noqa: B023
                    told = self._status(service)
                await context.write(health_pb2.HealthCheckResponse(status=told))
                self._told[watcher] = (service, told)
                self._told_more.set()
        finally:
            del self._told[watcher]
            self._told_more.set()
            self._watcher_count_by_service[service] -= 1
            if self._watcher_count_by_service[service] == 0:
                del self._server_watchers[service]
                del self._watcher_count_by_service[service]

    def _status(self, service: str) -> Any:
        return self._server_status.get(service, health_pb2.HealthCheckResponse.SERVICE_UNKNOWN)


class Health:
    """Follows `check` and sets the status of the whole server ("") and of `services`."""

    def __init__(
        self,
        check: Callable[[], Awaitable[None]],
        services: Sequence[str],
        interval: float = 1.0,
    ) -> None:
        self.servicer = _Servicer()
        self._check = check
        self._services = ("", *services)
        self._interval = interval
        self._problem: str | None = "not checked yet"
        self.serving = asyncio.Event()

    async def start(self) -> None:
        """Say NOT_SERVING; the servicer by itself starts with SERVING."""
        await self._set(_NOT_SERVING)

    async def follow(self) -> None:
        """Check every `interval` seconds, until `check` raises something but NotReady."""
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
        """Say NOT_SERVING for good; watchers that read are told when this returns."""
        await self.servicer.enter_graceful_shutdown()
        await self.servicer.until_told(_TELLING_TIMEOUT)

    async def _set(self, status: int) -> None:
        for service in self._services:
            await self.servicer.set(service, status)
