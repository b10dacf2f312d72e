"""Exceptions become statuses here, and only here; no exception's text reaches a client."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import NoReturn

import grpc
from fleet.jobs.v1 import error_reason_pb2 as reasons
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status
from grpc_status import rpc_status

from jobs_grpc.errors import (
    DatabaseUnavailable,
    ExecutionChanged,
    Internal,
    InvalidRequest,
    JobsError,
    LimitExceeded,
    Overloaded,
    ServerStopping,
)
from jobs_grpc.interceptors.around import Around, Context

logger = logging.getLogger(__name__)

DOMAIN = "fleet.jobs.v1"


class Errors(Around):
    """Answers a JobsError as it says, and everything else with a fixed INTERNAL.

    `stopping` is set when the server begins to stop.
    """

    def __init__(self, stopping: asyncio.Event) -> None:
        self._stopping = stopping

    @asynccontextmanager
    async def around(self, method: str, context: Context) -> AsyncIterator[None]:
        try:
            yield
        except JobsError as error:
            if isinstance(error, DatabaseUnavailable):
                logger.warning("database unavailable: %r", error.__cause__)
            await _abort(context, error)
        except ExceptionGroup as group:
            # Of tasks that end together, the first failure ended the others.
            errors, others = group.split(JobsError)
            if errors is None or others is not None:
                logger.exception("%s failed", method)
                await _abort(context, Internal())
            await _abort(context, _first(errors))
        except grpc.aio.AbortError:
            raise
        except asyncio.CancelledError:
            # Unless the server stops, it is the client that has gone; nobody would read it.
            if not self._stopping.is_set() or context.cancelled() or context.done():
                raise
            # The server is stopping. Left alone, the client would wait for its deadline.
            logger.warning("%s was cut off", method)
            await _abort(context, ServerStopping())
        except Exception:
            logger.exception("%s failed", method)
            await _abort(context, Internal())


def _first(group: ExceptionGroup[JobsError]) -> JobsError:
    first = group.exceptions[0]
    return _first(first) if isinstance(first, ExceptionGroup) else first


async def _abort(context: Context, error: JobsError) -> NoReturn:
    details = [
        ErrorInfo(
            reason=reasons.ErrorReason.Name(error.reason), domain=DOMAIN, metadata=error.metadata
        ),
        *_details(error),
    ]
    status = Status(code=error.code.value[0], message=error.message)
    for detail in details:
        packed = AnyMessage()
        packed.Pack(detail)
        status.details.append(packed)
    rich = rpc_status.to_status(status)
    # What is given here replaces what was set before: the request id is carried along.
    await context.abort(
        rich.code, rich.details, (*context.trailing_metadata(), *rich.trailing_metadata)
    )


def _details(error: JobsError) -> list[Message]:
    match error:
        case InvalidRequest():
            violations = [
                BadRequest.FieldViolation(field=v.field, description=v.description)
                for v in error.violations
            ]
            return [BadRequest(field_violations=violations)]
        case ExecutionChanged():
            return [error.present]
        case Overloaded(retry_after=int(seconds)) | LimitExceeded(retry_after=int(seconds)):
            return [RetryInfo(retry_delay=Duration(seconds=seconds))]
    return []
