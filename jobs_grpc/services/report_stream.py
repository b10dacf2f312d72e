"""Applies the reports of a ReportExecutions stream."""

import asyncio
import logging
from collections.abc import AsyncIterator

from fleet.jobs.v1 import device_jobs_pb2 as pb
from grpc.aio import ServicerContext

from jobs_grpc.auth.principal import Principal
from jobs_grpc.db.update_batcher import UpdateBatcher
from jobs_grpc.errors import ExecutionChanged, Internal, JobsError, ServerStopping, Violation
from jobs_grpc.services import validation
from jobs_grpc.services.execution_updates import parse_update, updated_execution

logger = logging.getLogger(__name__)

# Maximum number of reports of one stream that are processed concurrently. When it is reached, the
# server reads no more reports, and flow control stops the client.
MAX_REPORTS_IN_FLIGHT = 256


class ReportStream:
    """One ReportExecutions stream of `caller`.

    `stopping` is set when the server begins to stop.
    """

    def __init__(
        self,
        batcher: UpdateBatcher,
        max_document_bytes: int,
        stopping: asyncio.Event,
        caller: Principal,
    ) -> None:
        self._batcher = batcher
        self._max_document_bytes = max_document_bytes
        self._stopping = stopping
        self._caller = caller
        self._slots = asyncio.Semaphore(MAX_REPORTS_IN_FLIGHT)
        self._write_lock = asyncio.Lock()

    async def run(
        self,
        requests: AsyncIterator[pb.ReportExecutionsRequest],
        context: ServicerContext[pb.ReportExecutionsRequest, pb.ReportExecutionsResponse],
    ) -> None:
        """Respond to each report until the client ends the stream.

        Raises ServerStopping when the server stops first.
        """
        async with asyncio.TaskGroup() as group:

            async def read() -> None:
                async for request in requests:
                    await self._slots.acquire()
                    group.create_task(self._respond(request, context))

            # When the server stops, read no more reports but respond to those already read.
            reading = group.create_task(read())
            stopping = group.create_task(self._stopping.wait())
            await asyncio.wait({reading, stopping}, return_when=asyncio.FIRST_COMPLETED)
            stopping.cancel()
            interrupted = reading.cancel()  # True if the client had not ended its stream
        if interrupted:
            raise ServerStopping

    async def _respond(
        self,
        request: pb.ReportExecutionsRequest,
        context: ServicerContext[pb.ReportExecutionsRequest, pb.ReportExecutionsResponse],
    ) -> None:
        try:
            response = await self._apply(request)
            async with self._write_lock:
                await context.write(response)
        finally:
            self._slots.release()

    async def _apply(self, request: pb.ReportExecutionsRequest) -> pb.ReportExecutionsResponse:
        """Apply one report; errors become part of the response."""
        caller = self._caller
        report_id = request.report_id
        if validation.check_report_id(report_id):
            report_id = ""
        try:
            device_id = _reporting_device(caller, request)
            update = parse_update(
                request.report, device_id, self._max_document_bytes, with_document=False
            )
            row = await self._batcher.update(caller.tenant_id, update)
            execution = updated_execution(request.report.job_id, device_id, row)
        except JobsError as e:
            error = _report_error(e)
        except Exception:
            # A bug that one report triggers must not end the stream for the other reports.
            logger.exception("report failed")
            error = _report_error(Internal())
        else:
            return pb.ReportExecutionsResponse(report_id=report_id, execution=execution)
        return pb.ReportExecutionsResponse(report_id=report_id, error=error)


def _reporting_device(caller: Principal, request: pb.ReportExecutionsRequest) -> str:
    """The device of a report: the calling device, or the one that a bridge names."""
    violations = validation.check_report_id(request.report_id)
    if caller.device_id is None:
        violations += validation.check_text(
            "device_id", request.device_id, validation.MAX_ID_LENGTH
        )
    elif request.device_id not in ("", caller.device_id):
        violations.append(
            Violation("device_id", "device_id must be empty or the id of the calling device")
        )
    validation.raise_for_violations(violations)
    return caller.device_id or request.device_id


def _report_error(error: JobsError) -> pb.ReportError:
    return pb.ReportError(
        code=error.code.value[0],
        reason=error.reason,
        message=error.message,
        current_execution=error.current_execution if isinstance(error, ExecutionChanged) else None,
    )
