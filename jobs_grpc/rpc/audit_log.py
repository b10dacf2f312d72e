"""Writes the audit log: one line for each call that changes jobs, including rejected calls."""

import asyncio
import logging
import time
from typing import Any

from fleet.jobs.v1 import error_reason_pb2 as reasons
from google.protobuf.message import Message
from grpc import StatusCode

from jobs_grpc.auth.principal import find_principal
from jobs_grpc.errors import JobsError
from jobs_grpc.rpc.interceptor import (
    Context,
    Handler,
    Interceptor,
    behavior_of,
    replace_behavior,
)
from jobs_grpc.rpc.request_reader import find_request

logger = logging.getLogger("jobs_grpc.audit")

AUDITED_METHODS = frozenset(
    f"/fleet.jobs.v1.JobService/{name}"
    for name in ("CreateJob", "CancelJob", "CancelExecution", "RetryExecutions", "DeleteJob")
)

# Characters. A rejected request can have an id of any length.
_MAX_ID_LENGTH = 256


class AuditLog(Interceptor):
    """Logs the caller, method, job, device and outcome of each call that changes jobs.

    It wraps authentication, so rejected callers are logged as well. Documents, cancel reasons
    and tokens are never logged. Without a known caller there are no ids, because the request is
    decoded only after authentication.
    """

    def wrap_handler(self, method: str, handler: Handler) -> Handler:
        """Wrap the handlers of AUDITED_METHODS, which are all unary."""
        if method not in AUDITED_METHODS:
            return handler
        behavior = behavior_of(handler)

        async def respond(request: Any, context: Context) -> Any:
            started = time.perf_counter()
            code, reason, response_job_id = StatusCode.OK, None, None
            try:
                response = await behavior(request, context)
                response_job_id = getattr(response, "job_id", None)
                return response
            except JobsError as e:
                code, reason = e.code, reasons.ErrorReason.Name(e.reason)
                raise
            except asyncio.CancelledError:
                # The change may or may not have been committed.
                code = StatusCode.CANCELLED
                raise
            except Exception:
                code = StatusCode.INTERNAL
                raise
            finally:
                caller, decoded_request = find_principal(), find_request()
                logger.info(
                    "audit %s",
                    method.rpartition("/")[2],
                    extra={
                        "code": code.name,
                        "tenant": caller.tenant_id if caller else None,
                        "subject": caller.subject if caller else None,
                        "roles": ",".join(sorted(caller.roles)) if caller else None,
                        "peer": context.peer(),
                        # The server chooses the job_id if the request has none.
                        "job_id": response_job_id or _id_field(decoded_request, "job_id"),
                        "device_id": _id_field(decoded_request, "device_id"),
                        "reason": reason,
                        "ms": round((time.perf_counter() - started) * 1000, 2),
                    },
                )

        return replace_behavior(handler, respond, None)


def _id_field(request: Message | None, field: str) -> str | None:
    """The id in a field of the request, truncated; None if there is none."""
    return getattr(request, field, "")[:_MAX_ID_LENGTH] or None
