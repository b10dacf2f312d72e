"""The outermost interceptor: names each call, logs it, and knows what is in flight."""

import asyncio
import logging
import re
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc

from jobs_grpc import telemetry
from jobs_grpc.interceptors.around import Around, Context, is_infrastructure
from jobs_grpc.principal import find_principal

logger = logging.getLogger("jobs_grpc.calls")

_REQUEST_ID = re.compile(r"[\x21-\x7e]{1,128}")


class InFlight:
    """The calls being served; a server that stops waits for them."""

    def __init__(self) -> None:
        self._count = 0
        self._idle = asyncio.Event()
        self._idle.set()

    def enter(self) -> None:
        """A call begins."""
        self._count += 1
        self._idle.clear()

    def leave(self) -> None:
        """A call has ended, its cleanup included."""
        self._count -= 1
        if self._count == 0:
            self._idle.set()

    async def wait_idle(self) -> None:
        """Return when no call is being served."""
        await self._idle.wait()


class Observe(Around):
    """Health checks and reflection are logged at DEBUG and don't hold up a stop."""

    def __init__(self, in_flight: InFlight) -> None:
        self._in_flight = in_flight

    @asynccontextmanager
    async def around(self, method: str, context: Context) -> AsyncIterator[None]:
        infrastructure = is_infrastructure(method)
        request_id = _request_id(context)
        telemetry.request_id.set(request_id)
        context.set_trailing_metadata((("x-request-id", request_id),))
        started = time.perf_counter()
        if not infrastructure:
            self._in_flight.enter()
        try:
            yield
        finally:
            if not infrastructure:
                self._in_flight.leave()
            _log(method, context, time.perf_counter() - started, infrastructure)


def _request_id(context: Context) -> str:
    for key, value in context.invocation_metadata() or ():
        if key == "x-request-id" and isinstance(value, str) and _REQUEST_ID.fullmatch(value):
            return value
    return str(uuid.uuid4())


def _log(method: str, context: Context, seconds: float, infrastructure: bool) -> None:
    code = grpc.StatusCode.CANCELLED if context.cancelled() else _code(context)
    principal = find_principal()
    logger.log(
        logging.DEBUG if infrastructure else logging.INFO,
        "%s %s",
        method.rpartition("/")[2],
        code.name,
        extra={
            "tenant": principal.tenant_id if principal else None,
            "ms": round(seconds * 1000, 2),
        },
    )


def _code(context: Context) -> grpc.StatusCode:
    # Before the end it may be unset, or the bare number.
    code: object = context.code()
    return next((c for c in grpc.StatusCode if code in (c, c.value[0])), grpc.StatusCode.OK)
