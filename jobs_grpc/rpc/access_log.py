"""One log line per call, and the request id that names the call in the log."""

import logging
import random
import re
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any

import grpc

from jobs_grpc.auth.principal import Principal
from jobs_grpc.errors import JobsError
from jobs_grpc.observability import logs

logger = logging.getLogger("jobs_grpc.calls")

# By status code and by its number, since ServicerContext.code returns either.
_STATUS_CODES: Mapping[object, grpc.StatusCode] = {
    key: code for code in grpc.StatusCode for key in (code, code.value[0])
}

# Longer than a valid one. A request may have any text.
_MAX_JOB_ID_LENGTH = 256

_REQUEST_ID = re.compile(r"[\x21-\x7e]{1,128}")


def assign_request_id(context: Any, metadata: Iterable[tuple[str, str | bytes]]) -> None:
    """Use the client's x-request-id, or make one; send it back in the trailers."""
    request_id = _request_id(metadata)
    logs.request_id.set(request_id)
    context.set_trailing_metadata((("x-request-id", request_id),))


def _request_id(metadata: Iterable[tuple[str, str | bytes]]) -> str:
    for key, value in metadata:
        if key == "x-request-id" and isinstance(value, str) and _REQUEST_ID.fullmatch(value):
            return value
    return _random_uuid()


def _random_uuid() -> str:
    """Return a UUID of version 4, in a third of the time of uuid.uuid4.

    uuid4 makes a system call for unpredictable bytes, but the id is not a secret.
    """
    digits = f"{random.getrandbits(128):032x}"
    # 4 is the version, and 8 the variant.
    return f"{digits[:8]}-{digits[8:12]}-4{digits[13:16]}-8{digits[17:20]}-{digits[20:]}"


def status_code(context: Any, error: JobsError | None, *, canceled: bool) -> grpc.StatusCode:
    """Return the status of a call that has ended with `error`, or was canceled."""
    if error is not None:
        return error.code
    if canceled:
        return grpc.StatusCode.CANCELLED
    # A successful call has no status yet, because gRPC sets it after the handler returns.
    return _STATUS_CODES.get(context.code(), grpc.StatusCode.OK)


def device_call_fields(caller: Principal | None, request: Any, response: Any) -> dict[str, object]:
    """Return who called for which device and job. `response` is None if the call failed."""
    job_id = getattr(request, "job_id", "")[:_MAX_JOB_ID_LENGTH]
    if not job_id and response is not None:
        # StartNextExecution chooses the job.
        job_id = getattr(getattr(response, "execution", None), "job_id", "")
    device_id = caller.device_id if caller else None
    return {
        "subject": caller.subject if caller else None,
        "device_id": device_id,
        "device_ids": None if device_id else _device_ids(request),
        "job_id": job_id or None,
    }


def _device_ids(request: Any) -> list[str] | None:
    """Return the devices that a bridge names in a request, as many as fit; None: none."""
    devices = getattr(request, "devices", ())
    device_ids = getattr(request, "device_ids", None) or (each.device_id for each in devices)
    return logs.first_that_fit(device_ids, logs.MAX_BYTES) or None


def write(
    method: str,
    code: grpc.StatusCode,
    caller: Principal | None,
    error: JobsError | None,
    seconds: float,
    *,
    public: bool,
    device_fields: Mapping[str, object] = MappingProxyType({}),
) -> None:
    """Log a call that has ended; calls of public methods at DEBUG.

    `device_fields` are the device_call_fields of a call of a device.
    """
    logs.log_fields(
        logger,
        logging.DEBUG if public else logging.INFO,
        f"{method.rpartition('/')[2]} {code.name}",
        {
            "tenant": caller.tenant_id if caller else None,
            **device_fields,
            "reason": error.reason if error else None,
            "ms": round(seconds * 1000, 2),
        },
    )
