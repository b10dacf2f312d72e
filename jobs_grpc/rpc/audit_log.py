"""The audit trail: a line for each thing that an operator did, or was not let do."""

import asyncio
import logging
import time
from typing import Any

from fleet.jobs.v1 import error_reason_pb2 as reasons
from google.protobuf.message import Message
from grpc import StatusCode

from jobs_grpc.auth.principal import find_principal
from jobs_grpc.errors import JobsError
from jobs_grpc.rpc.interceptor import Context, Handler, Interceptor, remake
from jobs_grpc.rpc.request_reader import find_request

logger = logging.getLogger("jobs_grpc.audit")

AUDITED = frozenset(
    f"/fleet.jobs.v1.JobService/{name}"
    for name in ("CreateJob", "CancelJob", "CancelExecution", "RetryExecutions", "DeleteJob")
)

# Of a name that a request gives, which may be anything of any length.
_MAX_SHOWN = 256


class AuditLog(Interceptor):
    """Who did what, when, to which job, in which request, and what came of it.

    It stands outside of authentication, so that refusals are in the trail, too. Of the
    request it tells names only: never documents, reasons or tokens; and nothing at all if
    the caller is not known, since it is not decoded then.
    """

    def wrapped(self, method: str, handler: Handler) -> Handler:
        """Wrap the handlers of what changes jobs."""
        if method not in AUDITED:
            return handler
        behaviour: Any = handler.unary_unary

        async def answer(request: Any, context: Context) -> Any:
            started = time.perf_counter()
            code, reason, made = StatusCode.OK, None, None
            try:
                response = await behaviour(request, context)
                made = getattr(response, "job_id", None)
                return response
            except JobsError as e:
                code, reason = e.code, reasons.ErrorReason.Name(e.reason)
                raise
            except asyncio.CancelledError:
                # Whether it has taken effect is not known.
                code = StatusCode.CANCELLED
                raise
            except Exception:
                code = StatusCode.INTERNAL
                raise
            finally:
                caller, said = find_principal(), find_request()
                logger.info(
                    "audit %s",
                    method.rpartition("/")[2],
                    extra={
                        "code": code.name,
                        "tenant": caller.tenant_id if caller else None,
                        "subject": caller.subject if caller else None,
                        "roles": ",".join(sorted(caller.roles)) if caller else None,
                        "peer": context.peer(),
                        "job_id": made or _name(said, "job_id"),
                        "device_id": _name(said, "device_id"),
                        "reason": reason,
                        "ms": round((time.perf_counter() - started) * 1000, 2),
                    },
                )

        return remake(handler, answer, handler.request_deserializer)


def _name(request: Message | None, field: str) -> str | None:
    """An id that the request names, cut to what one can be; None if it names none."""
    return getattr(request, field, "")[:_MAX_SHOWN] or None
