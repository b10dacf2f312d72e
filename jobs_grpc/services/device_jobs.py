"""Implements DeviceJobService: each method validates, calls the store and converts the result."""

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from typing import Any

from fleet.jobs.v1 import device_jobs_pb2 as pb
from fleet.jobs.v1 import device_jobs_pb2_grpc
from fleet.jobs.v1.jobs_pb2 import JobExecution
from grpc.aio import ServicerContext

from jobs_grpc.auth.principal import Principal, current_principal, current_tenant_and_device
from jobs_grpc.db.store import ExecutionUpdate, Row, Store
from jobs_grpc.db.update_batcher import UpdateBatcher
from jobs_grpc.errors import (
    DatabaseUnavailable,
    ExecutionChanged,
    ExecutionFinished,
    ExecutionNotFound,
    Internal,
    JobsError,
    Overloaded,
    ServerStopping,
    Violation,
)
from jobs_grpc.services import pagination, validation
from jobs_grpc.services.conversions import MessageFields, device_execution_fields, optional_or
from jobs_grpc.services.struct_json import to_json
from jobs_grpc.services.watch_hub import WatchHub

logger = logging.getLogger(__name__)

DEFAULT_PENDING_LIMIT = 10
MAX_PENDING_LIMIT = 100

# Maximum number of reports of one stream that are processed concurrently. When it is reached, the
# server reads no more reports, and flow control stops the client.
MAX_REPORTS_IN_FLIGHT = 256


class DeviceJobService(device_jobs_pb2_grpc.DeviceJobServiceServicer):
    """The devices' API, documented in device_jobs.proto.

    `stopping` is set when the server begins to stop. Watched devices are polled every
    `watch_interval` seconds.
    """

    def __init__(
        self,
        store: Store,
        batcher: UpdateBatcher,
        max_document_bytes: int,
        stopping: asyncio.Event,
        *,
        watch_interval: float = 0.5,
    ) -> None:
        self._store = store
        self._batcher = batcher
        self._max_document_bytes = max_document_bytes
        self._stopping = stopping
        self._watch_interval = watch_interval
        self._watch_hub = WatchHub(self._fingerprints, watch_interval, stopping)

    async def ListPendingExecutions(
        self,
        request: pb.ListPendingExecutionsRequest,
        context: ServicerContext[pb.ListPendingExecutionsRequest, pb.ListPendingExecutionsResponse],
    ) -> pb.ListPendingExecutionsResponse:
        limit = _pending_limit(request)
        tenant_id, device_id = current_tenant_and_device()
        after_status, after_queued_at, after_job_id = pagination.parse_pending_token(
            request, device_id
        )
        rows = await self._store.list_pending_executions(
            tenant_id,
            device_id=device_id,
            after_status=after_status,
            after_queued_at=after_queued_at,
            after_job_id=after_job_id,
            limit=limit + 1,
        )
        response = pb.ListPendingExecutionsResponse()
        if pagination.fill_page(response.executions, map(device_execution_fields, rows), limit):
            last = rows[len(response.executions) - 1]
            response.next_page_token = pagination.pending_token(
                request, device_id, last["status"], last["queued_at"], last["job_id"]
            )
        return response

    async def StartNextExecution(
        self,
        request: pb.StartNextExecutionRequest,
        context: ServicerContext[pb.StartNextExecutionRequest, pb.StartNextExecutionResponse],
    ) -> pb.StartNextExecutionResponse:
        details, violations = self._status_details(request)
        validation.raise_for_violations(violations)
        tenant_id, device_id = current_tenant_and_device()
        row = await self._batcher.update(
            tenant_id,
            ExecutionUpdate(None, device_id, None, status_details=details, must_be_next=True),
        )
        return pb.StartNextExecutionResponse(
            execution=None if row["outcome"] == "NONE" else device_execution_fields(row)
        )

    async def StartExecution(
        self,
        request: pb.StartExecutionRequest,
        context: ServicerContext[pb.StartExecutionRequest, pb.StartExecutionResponse],
    ) -> pb.StartExecutionResponse:
        details, violations = self._status_details(request)
        validation.raise_for_violations(violations + validation.check_job_id(request.job_id))
        tenant_id, device_id = current_tenant_and_device()
        row = await self._batcher.update(
            tenant_id, ExecutionUpdate(request.job_id, device_id, None, status_details=details)
        )
        return pb.StartExecutionResponse(
            execution=_updated_execution(request.job_id, device_id, row)
        )

    async def GetExecution(
        self,
        request: pb.GetExecutionRequest,
        context: ServicerContext[pb.GetExecutionRequest, pb.GetExecutionResponse],
    ) -> pb.GetExecutionResponse:
        validation.raise_for_violations(validation.check_job_id(request.job_id))
        tenant_id, device_id = current_tenant_and_device()
        row = await self._store.get_execution(tenant_id, device_id=device_id, job_id=request.job_id)
        return pb.GetExecutionResponse(execution=device_execution_fields(row))

    async def UpdateExecution(
        self,
        request: pb.UpdateExecutionRequest,
        context: ServicerContext[pb.UpdateExecutionRequest, pb.UpdateExecutionResponse],
    ) -> pb.UpdateExecutionResponse:
        tenant_id, device_id = current_tenant_and_device()
        row = await self._batcher.update(tenant_id, self._parse_update(request, device_id))
        return pb.UpdateExecutionResponse(
            execution=_updated_execution(request.job_id, device_id, row)
        )

    async def ReportExecutions(  # type: ignore[override]  # gRPC allows context.write
        self,
        request_iterator: AsyncIterator[pb.ReportExecutionsRequest],
        context: ServicerContext[pb.ReportExecutionsRequest, pb.ReportExecutionsResponse],
    ) -> None:
        caller = current_principal()
        slots = asyncio.Semaphore(MAX_REPORTS_IN_FLIGHT)
        write_lock = asyncio.Lock()

        async def handle(request: pb.ReportExecutionsRequest) -> None:
            try:
                response = await self._handle_report(caller, request)
                async with write_lock:
                    await context.write(response)
            finally:
                slots.release()

        async with asyncio.TaskGroup() as group:

            async def read() -> None:
                async for request in request_iterator:
                    await slots.acquire()
                    group.create_task(handle(request))

            # When the server stops, read no more reports but respond to those already read.
            reading = group.create_task(read())
            stopping = group.create_task(self._stopping.wait())
            await asyncio.wait({reading, stopping}, return_when=asyncio.FIRST_COMPLETED)
            stopping.cancel()
            interrupted = reading.cancel()  # True if the client had not ended its stream
        if interrupted:
            raise ServerStopping

    async def WatchPendingExecutions(
        self,
        request: pb.WatchPendingExecutionsRequest,
        context: ServicerContext[
            pb.WatchPendingExecutionsRequest, pb.WatchPendingExecutionsResponse
        ],
    ) -> AsyncIterator[pb.WatchPendingExecutionsResponse]:
        limit = _pending_limit(request)
        tenant_id, device_id = current_tenant_and_device()
        async with aclosing(self._watch_hub.watch(tenant_id, device_id)) as changes:
            async for _ in changes:
                rows = await self._pending_rows_with_retry(tenant_id, device_id, limit + 1)
                response = pb.WatchPendingExecutionsResponse()
                response.has_more = pagination.fill_page(
                    response.executions, map(device_execution_fields, rows), limit
                )
                yield response

    async def _fingerprints(self, tenant_id: str, device_ids: list[str]) -> dict[str, str]:
        rows = await self._store.pending_fingerprints(tenant_id, device_ids=device_ids)
        return {row["device_id"]: row["fingerprint"] for row in rows}

    async def _pending_rows_with_retry(
        self, tenant_id: str, device_id: str, limit: int
    ) -> Sequence[Row]:
        """The first pending executions. Retries while the database is unavailable or overloaded."""
        while True:
            try:
                return await self._store.list_pending_executions(
                    tenant_id, device_id=device_id, limit=limit
                )
            except (DatabaseUnavailable, Overloaded):
                await self._wait_for_next_attempt()

    async def _wait_for_next_attempt(self) -> None:
        """Wait for the watch interval. Raises ServerStopping if the server stops first."""
        try:
            await asyncio.wait_for(self._stopping.wait(), self._watch_interval)
        except TimeoutError:
            return
        raise ServerStopping

    async def _handle_report(
        self, caller: Principal, request: pb.ReportExecutionsRequest
    ) -> pb.ReportExecutionsResponse:
        """Apply one report of a stream; errors become part of the response."""
        report_id = request.report_id
        if validation.check_report_id(report_id):
            report_id = ""
        try:
            device_id = _reporting_device(caller, request)
            update = self._parse_update(request.report, device_id, with_document=False)
            row = await self._batcher.update(caller.tenant_id, update)
            execution = _updated_execution(request.report.job_id, device_id, row)
        except JobsError as e:
            error = _report_error(e)
        except Exception:
            # A bug that one report triggers must not end the stream for the other reports.
            logger.exception("report failed")
            error = _report_error(Internal())
        else:
            return pb.ReportExecutionsResponse(report_id=report_id, execution=execution)
        return pb.ReportExecutionsResponse(report_id=report_id, error=error)

    def _parse_update(
        self, request: pb.UpdateExecutionRequest, device_id: str, *, with_document: bool = True
    ) -> ExecutionUpdate:
        """Convert a report to an update. Raises InvalidRequest."""
        details, violations = self._status_details(request)
        validation.raise_for_violations(
            violations
            + validation.check_job_id(request.job_id)
            + validation.check_reported_status(request.status)
            + validation.check_timeout_extension(request)
        )
        return ExecutionUpdate(
            job_id=request.job_id,
            device_id=device_id,
            status=JobExecution.Status.Name(request.status),
            status_details=details,
            execution_number=optional_or(request, "execution_number", None),
            expected_version=optional_or(request, "expected_version", None),
            extend_timeout_minutes=optional_or(request, "extend_timeout_minutes", None),
            with_document=with_document,
        )

    def _status_details(self, request: Any) -> tuple[str | None, list[Violation]]:
        """The request's status_details as JSON, or None if unset, and their violations."""
        if not request.HasField("status_details"):
            return None, []
        return to_json(request.status_details, "status_details", self._max_document_bytes)


def _pending_limit(
    request: pb.ListPendingExecutionsRequest | pb.WatchPendingExecutionsRequest,
) -> int:
    limit = optional_or(request, "limit", DEFAULT_PENDING_LIMIT)
    validation.raise_for_violations(validation.check_range("limit", limit, 1, MAX_PENDING_LIMIT))
    return limit


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


def _updated_execution(job_id: str, device_id: str, row: Row) -> MessageFields:
    """The fields of a DeviceExecution after an update, from a row of update_executions.sql.

    Raises ExecutionNotFound, ExecutionFinished or ExecutionChanged.
    """
    match row["outcome"]:
        case "EXECUTION_NOT_FOUND":
            raise ExecutionNotFound(job_id, device_id)
        case "EXECUTION_FINISHED":
            raise ExecutionFinished(job_id, device_id, row["previous_status"])
        case "EXECUTION_CHANGED":
            # Each of these two can exceed the size of error details: see InvalidRequest.
            fields = device_execution_fields(row) | {
                "document_params": None,
                "status_details": None,
            }
            raise ExecutionChanged(pb.DeviceExecution(**fields))
    return device_execution_fields(row)


def _report_error(error: JobsError) -> pb.ReportError:
    return pb.ReportError(
        code=error.code.value[0],
        reason=error.reason,
        message=error.message,
        current_execution=error.current_execution if isinstance(error, ExecutionChanged) else None,
    )
