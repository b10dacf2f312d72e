"""The outermost interceptor: names each call, logs it, and knows what is in flight."""

import asyncio
import logging
import random
import re
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import grpc

from jobs_grpc import telemetry
from jobs_grpc.auth.policy import is_open
from jobs_grpc.interceptors.around import Around, Context
from jobs_grpc.interceptors.once import Metadata, call_metadata
from jobs_grpc.principal import find_principal

logger = logging.getLogger("jobs_grpc.calls")

_CODES: Mapping[object, grpc.StatusCode] = {
    known: code for code in grpc.StatusCode for known in (code, code.value[0])
}

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

    @contextmanager
    def around(self, method: str, context: Context) -> Iterator[None]:
        request_id = _request_id(call_metadata())
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


def _request_id(metadata: Metadata) -> str:
    for key, value in metadata:
        if key == "x-request-id" and isinstance(value, str) and _REQUEST_ID.fullmatch(value):
            return value
    # uuid4 would ask the system for randomness that nobody could foresee; this is no secret.
    return str(uuid.UUID(int=random.getrandbits(128), version=4))


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
    # It is a code, its bare number, or unset before the end.
    return _CODES.get(context.code(), grpc.StatusCode.OK)
