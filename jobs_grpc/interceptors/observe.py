"""The outermost interceptor: names each call, logs it, and knows what is in flight."""

import asyncio
import logging
import re
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

import grpc

from jobs_grpc import telemetry
from jobs_grpc.auth.policy import is_open
from jobs_grpc.interceptors.around import Around, Context
from jobs_grpc.principal import find_principal

logger = logging.getLogger("jobs_grpc.calls")

_REQUEST_ID = re.compile(r"[\x21-\x7e]{1,128}")


class InFlight:
    """The calls being served, as the tasks that serve them."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[object]] = set()
        self._infrastructure: set[asyncio.Task[object]] = set()

    @contextmanager
    def entered(self, method: str) -> Iterator[None]:
        """For the time that the present task serves a call of `method`."""
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - coroutines run in tasks
        # Past the block gRPC sends the answer: a loop that ends in the midst of it is minded.
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        if not is_open(method):
            yield
            return
        self._infrastructure.add(task)
        try:
            yield
        finally:
            self._infrastructure.discard(task)

    def end_infrastructure(self) -> None:
        """Cut off health watches and reflection, which never end by themselves."""
        for task in self._infrastructure:
            task.cancel()

    async def ended(self, limit: float) -> bool:
        """Wait until all calls have ended, cleanup included; False after `limit` seconds."""
        if not self._tasks:
            return True
        _, left = await asyncio.wait(self._tasks, timeout=limit)
        return not left


class Observe(Around):
    """Health checks and reflection are logged at DEBUG and don't hold up a stop."""

    def __init__(self, in_flight: InFlight) -> None:
        self._in_flight = in_flight

    @asynccontextmanager
    async def around(self, method: str, context: Context) -> AsyncIterator[None]:
        request_id = _request_id(context)
        telemetry.request_id.set(request_id)
        context.set_trailing_metadata((("x-request-id", request_id),))
        started = time.perf_counter()
        code: grpc.StatusCode | None = None
        with self._in_flight.entered(method):
            try:
                yield
            except (asyncio.CancelledError, GeneratorExit):
                # The client has gone, which the context may not say.
                code = grpc.StatusCode.CANCELLED
                raise
            finally:
                _log(method, code or _code(context), time.perf_counter() - started)


def _request_id(context: Context) -> str:
    for key, value in context.invocation_metadata() or ():
        if key == "x-request-id" and isinstance(value, str) and _REQUEST_ID.fullmatch(value):
            return value
    return str(uuid.uuid4())


def _log(method: str, code: grpc.StatusCode, seconds: float) -> None:
    principal = find_principal()
    logger.log(
        logging.DEBUG if is_open(method) else logging.INFO,
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
