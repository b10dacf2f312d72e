"""Gives each call a request id, tracks it as in flight, and logs one line when it is done."""

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
from jobs_grpc.rpc.interceptor import AroundCallInterceptor, Context

logger = logging.getLogger("jobs_grpc.calls")

# By status code and by its number, since ServicerContext.code returns either.
_STATUS_CODES: Mapping[object, grpc.StatusCode] = {
    key: code for code in grpc.StatusCode for key in (code, code.value[0])
}

_REQUEST_ID = re.compile(r"[\x21-\x7e]{1,128}")


class AccessLog(AroundCallInterceptor):
    """Logs calls at INFO, and calls of public methods at DEBUG.

    The request id is that of the client's metadata or a new UUID; the response metadata has it.
    """

    def __init__(self, in_flight: InFlight) -> None:
        self._in_flight = in_flight

    @contextmanager
    def around_call(self, method: str, context: Context) -> Iterator[None]:
        request_id = _request_id(call_metadata())
        logs.request_id.set(request_id)
        context.set_trailing_metadata((("x-request-id", request_id),))
        started = time.perf_counter()
        code: grpc.StatusCode | None = None
        with self._in_flight.track(method):
            try:
                yield
            except (asyncio.CancelledError, GeneratorExit):
                # The client canceled the call. The context does not always have this status.
                code = grpc.StatusCode.CANCELLED
                raise
            finally:
                _log(method, code or _status_code(context), time.perf_counter() - started)


def _request_id(metadata: Metadata) -> str:
    for key, value in metadata:
        if key == "x-request-id" and isinstance(value, str) and _REQUEST_ID.fullmatch(value):
            return value
    # The id is not a secret, and uuid4 would make a system call for unpredictable bytes.
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


def _status_code(context: Context) -> grpc.StatusCode:
    # A successful call has no status yet, because gRPC sets it after the handler returns.
    return _STATUS_CODES.get(context.code(), grpc.StatusCode.OK)
