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

from jobs_grpc import logs
from jobs_grpc.auth.policy import is_public
from jobs_grpc.auth.principal import find_principal
from jobs_grpc.rpc.handler_cache import Metadata, call_metadata
from jobs_grpc.rpc.in_flight import InFlight
from jobs_grpc.rpc.interceptor import Around, Context

logger = logging.getLogger("jobs_grpc.calls")

_CODES: Mapping[object, grpc.StatusCode] = {
    known: code for code in grpc.StatusCode for known in (code, code.value[0])
}

_REQUEST_ID = re.compile(r"[\x21-\x7e]{1,128}")


class AccessLog(Around):
    """Health checks and reflection are logged at DEBUG and don't hold up a stop."""

    def __init__(self, in_flight: InFlight) -> None:
        self._in_flight = in_flight

    @contextmanager
    def around(self, method: str, context: Context) -> Iterator[None]:
        request_id = _request_id(call_metadata())
        logs.request_id.set(request_id)
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
        logging.DEBUG if is_public(method) else logging.INFO,
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
