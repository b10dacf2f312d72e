"""grpc.health.v1: SERVING while the readiness check succeeds, NOT_SERVING otherwise."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from jobs_grpc.db.readiness import DatabaseUnresponsive, NotReady

logger = logging.getLogger(__name__)

# The type stubs lack the messages of List.
_messages: Any = health_pb2

_SERVING = health_pb2.HealthCheckResponse.SERVING
_NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING

# Seconds that a stop waits until all watchers have received the last status.
_NOTIFY_TIMEOUT = 1.0


class _HealthServicer(health_pb2_grpc.HealthServicer):
    """Serves the statuses of `services`, NOT_SERVING at first.

    Each watcher waits for changes on its own: one that does not read delays no other.
    """

    def __init__(self, services: Sequence[str]) -> None:
        self._statuses: dict[str, Any] = dict.fromkeys(services, _NOT_SERVING)
        # Set, and replaced by a new one, at each change.
        self._changed = asyncio.Event()
        # For each watcher the service that it watches and the status that it received last.
        self._sent: dict[object, tuple[str, Any]] = {}
        self._sent_changed = asyncio.Event()

    def set(self, status: Any) -> None:
        """Set the status of all services."""
        self._statuses = dict.fromkeys(self._statuses, status)
        self._changed.set()
        self._changed = asyncio.Event()

    async def wait_until_sent(self, timeout: float) -> None:  # noqa: ASYNC109
        """Return when all watchers have received the current status, or after the timeout."""
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                while any(self._status(service) != sent for service, sent in self._sent.values()):
                    self._sent_changed.clear()
                    await self._sent_changed.wait()

    async def Check(
        self, request: health_pb2.HealthCheckRequest, context: Any
    ) -> health_pb2.HealthCheckResponse:
        if request.service not in self._statuses:
            await context.abort(grpc.StatusCode.NOT_FOUND, "The server has no such service")
        return health_pb2.HealthCheckResponse(status=self._statuses[request.service])

    async def List(self, request: Any, context: Any) -> Any:
        return _messages.HealthListResponse(
            statuses={
                service: health_pb2.HealthCheckResponse(status=status)
                for service, status in self._statuses.items()
            }
        )

    async def Watch(self, request: health_pb2.HealthCheckRequest, context: Any) -> None:
        # Otherwise gRPC sends it with the first status, and cannot end a call that waits for that.
        await context.send_initial_metadata(())
        service, sent = request.service, None
        watcher = object()
        self._sent[watcher] = (service, sent)
        try:
            while True:
                changed, status = self._changed, self._status(service)
                if status == sent:
                    await changed.wait()
                    continue
                response = health_pb2.HealthCheckResponse(status=status)
                await context.write(response.SerializeToString())
                sent = status
                self._sent[watcher] = (service, sent)
                self._sent_changed.set()
        finally:
            del self._sent[watcher]
            self._sent_changed.set()

    def _status(self, service: str) -> Any:
        return self._statuses.get(service, health_pb2.HealthCheckResponse.SERVICE_UNKNOWN)


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
        self.servicer = _HealthServicer(("", *services))
        self._check = check
        self._stopped = False
        self._interval = interval
        self._problem: str | None = "not checked yet"
        self.serving = asyncio.Event()

    @property
    def is_serving(self) -> bool:
        """Whether the server reports SERVING."""
        return self._problem is None and not self._stopped

    async def run(self) -> None:
        """Check every `interval` seconds, until canceled.

        Raises what `check` raises other than NotReady, after reporting NOT_SERVING.
        """
        in_outage = False
        while True:
            was_in_outage, in_outage = in_outage, False
            try:
                await self._check()
                problem = None
            except NotReady as e:
                problem = str(e)
                in_outage = isinstance(e, DatabaseUnresponsive)
            except Exception:
                await self.stop()
                raise
            if problem != self._problem:
                self._problem = problem
                # The database layer logs when an outage begins and when it ends.
                if problem is None:
                    if not (was_in_outage and self.serving.is_set()):
                        logger.info("serving")
                elif not in_outage:
                    logger.warning("not serving: %s", problem)
                if not self._stopped:
                    self.servicer.set(_NOT_SERVING if problem else _SERVING)
                if problem is None:
                    self.serving.set()
            await asyncio.sleep(self._interval)

    async def stop(self) -> None:
        """Report NOT_SERVING from now on, and wait briefly until watchers have received it."""
        self._stopped = True
        self.servicer.set(_NOT_SERVING)
        await self.servicer.wait_until_sent(_NOTIFY_TIMEOUT)
