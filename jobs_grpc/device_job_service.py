"""DeviceJobService: each method checks the request, delegates to the store, maps the answer."""

import asyncio
from collections.abc import AsyncIterator, MutableSequence
from contextlib import aclosing, suppress
from typing import Any

from fleet.jobs.v1 import device_jobs_pb2 as pb
from fleet.jobs.v1 import device_jobs_pb2_grpc
from fleet.jobs.v1.jobs_pb2 import JobExecution
from grpc.aio import ServicerContext

from jobs_grpc import checks, paging
from jobs_grpc.batcher import Batcher
from jobs_grpc.documents import to_json
from jobs_grpc.errors import (
    DatabaseUnavailable,
    ExecutionChanged,
    ExecutionNotFound,
    ExecutionOver,
    JobsError,
    Overloaded,
    ServerStopping,
    Violation,
)
from jobs_grpc.mapping import device_execution_from_row, given
from jobs_grpc.principal import Principal, current_device, current_principal
from jobs_grpc.store import Report, Row, Store
from jobs_grpc.watching import Watching

DEFAULT_PENDING = 10
MAX_PENDING = 100

# Of one stream; the client is held back beyond that.
MAX_REPORTS_UNDER_WAY = 256

# Seconds between looks at the devices that watch.
WATCH_INTERVAL = 0.5


class DeviceJobService(device_jobs_pb2_grpc.DeviceJobServiceServicer):
    """The device's side; the contract is in device_jobs.proto."""

    def __init__(
        self, store: Store, batcher: Batcher, max_document_bytes: int, stopping: asyncio.Event
    ) -> None:
        self._store = store
        self._batcher = batcher
        self._max_document_bytes = max_document_bytes
        self._stopping = stopping
        self._watching = Watching(self._markers, WATCH_INTERVAL, stopping)

    async def ListPendingExecutions(
        self,
        request: pb.ListPendingExecutionsRequest,
        context: ServicerContext[pb.ListPendingExecutionsRequest, pb.ListPendingExecutionsResponse],
    ) -> pb.ListPendingExecutionsResponse:
        limit = _pending_limit(request)
        tenant_id, device_id = current_device()
        response = pb.ListPendingExecutionsResponse()
        response.more = await self._fill_pending(response.executions, tenant_id, device_id, limit)
        return response

    async def StartNextExecution(
        self,
        request: pb.StartNextExecutionRequest,
        context: ServicerContext[pb.StartNextExecutionRequest, pb.StartNextExecutionResponse],
    ) -> pb.StartNextExecutionResponse:
        details, violations = self._details(request)
        checks.require(violations)
        tenant_id, device_id = current_device()
        row = await self._store.start_execution(
            tenant_id, device_id=device_id, job_id=None, status_details=details
        )
        return pb.StartNextExecutionResponse(
            execution=None if row is None else device_execution_from_row(row)
        )

    async def StartExecution(
        self,
        request: pb.StartExecutionRequest,
        context: ServicerContext[pb.StartExecutionRequest, pb.StartExecutionResponse],
    ) -> pb.StartExecutionResponse:
        details, violations = self._details(request)
        checks.require(violations + checks.check_job_id(request.job_id))
        tenant_id, device_id = current_device()
        row = await self._store.start_execution(
            tenant_id, device_id=device_id, job_id=request.job_id, status_details=details
        )
        assert row is not None  # noqa: S101 - with a job_id it is there or an error
        return pb.StartExecutionResponse(execution=device_execution_from_row(row))

    async def GetExecution(
        self,
        request: pb.GetExecutionRequest,
        context: ServicerContext[pb.GetExecutionRequest, pb.GetExecutionResponse],
    ) -> pb.GetExecutionResponse:
        checks.require(checks.check_job_id(request.job_id))
        tenant_id, device_id = current_device()
        row = await self._store.get_execution(tenant_id, device_id=device_id, job_id=request.job_id)
        return pb.GetExecutionResponse(execution=device_execution_from_row(row))

    async def UpdateExecution(
        self,
        request: pb.UpdateExecutionRequest,
        context: ServicerContext[pb.UpdateExecutionRequest, pb.UpdateExecutionResponse],
    ) -> pb.UpdateExecutionResponse:
        tenant_id, device_id = current_device()
        report = self._checked(request, device_id)
        row = await self._batcher.report(tenant_id, report)
        return pb.UpdateExecutionResponse(execution=_reported(report, row))

    async def ReportExecutions(  # type: ignore[override]  # gRPC takes this form, too
        self,
        request_iterator: AsyncIterator[pb.ReportExecutionsRequest],
        context: ServicerContext[pb.ReportExecutionsRequest, pb.ReportExecutionsResponse],
    ) -> None:
        caller = current_principal()
        slots = asyncio.Semaphore(MAX_REPORTS_UNDER_WAY)
        writing = asyncio.Lock()

        async def answer(request: pb.ReportExecutionsRequest) -> None:
            try:
                response = await self._answer(caller, request)
                async with writing:
                    await context.write(response)
            finally:
                slots.release()

        async with asyncio.TaskGroup() as group:

            async def read() -> None:
                async for request in request_iterator:
                    await slots.acquire()
                    group.create_task(answer(request))

            # At a stop, what has been read is still answered.
            reading = group.create_task(read())
            stopping = group.create_task(self._stopping.wait())
            await asyncio.wait({reading, stopping}, return_when=asyncio.FIRST_COMPLETED)
            stopping.cancel()
            cut_short = reading.cancel()
        if cut_short:
            raise ServerStopping

    async def WatchPendingExecutions(
        self,
        request: pb.WatchPendingExecutionsRequest,
        context: ServicerContext[
            pb.WatchPendingExecutionsRequest, pb.WatchPendingExecutionsResponse
        ],
    ) -> AsyncIterator[pb.WatchPendingExecutionsResponse]:
        limit = _pending_limit(request)
        tenant_id, device_id = current_device()
        async with aclosing(self._watching.changes(tenant_id, device_id)) as changes:
            async for _ in changes:
                response = pb.WatchPendingExecutionsResponse()
                response.more = await self._fill_pending_at_last(
                    response.executions, tenant_id, device_id, limit
                )
                yield response

    async def _markers(self, tenant_id: str, device_ids: list[str]) -> dict[str, str]:
        rows = await self._store.pending_markers(tenant_id, device_ids=device_ids)
        return {row["device_id"]: row["marker"] for row in rows}

    async def _fill_pending(
        self,
        page: MutableSequence[pb.DeviceExecution],
        tenant_id: str,
        device_id: str,
        limit: int,
    ) -> bool:
        rows = await self._store.list_pending_executions(
            tenant_id, device_id=device_id, limit=limit + 1
        )
        return paging.fill(page, map(device_execution_from_row, rows), limit)

    async def _fill_pending_at_last(
        self,
        page: MutableSequence[pb.DeviceExecution],
        tenant_id: str,
        device_id: str,
        limit: int,
    ) -> bool:
        """The same, waiting out an outage, or that all watchers ask at once."""
        while True:
            try:
                return await self._fill_pending(page, tenant_id, device_id, limit)
            except (DatabaseUnavailable, Overloaded):
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._stopping.wait(), WATCH_INTERVAL)
                    raise ServerStopping from None

    async def _answer(
        self, caller: Principal, request: pb.ReportExecutionsRequest
    ) -> pb.ReportExecutionsResponse:
        response = pb.ReportExecutionsResponse(report_id=request.report_id)
        try:
            report = self._checked(request.report, _reporting_device(caller, request))
            row = await self._batcher.report(caller.tenant_id, report)
            response.execution.CopyFrom(_reported(report, row, with_document=False))
        except JobsError as e:
            present = e.present if isinstance(e, ExecutionChanged) else None
            response.error.CopyFrom(
                pb.ReportError(
                    code=e.code.value[0], reason=e.reason, message=e.message, present=present
                )
            )
        return response

    def _checked(self, request: pb.UpdateExecutionRequest, device_id: str) -> Report:
        details, violations = self._details(request)
        checks.require(
            violations
            + checks.check_job_id(request.job_id)
            + checks.check_reported_status(request.status)
            + checks.check_extension(request)
        )
        return Report(
            job_id=request.job_id,
            device_id=device_id,
            status=JobExecution.Status.Name(request.status),
            status_details=details,
            execution_number=given(request, "execution_number", None),
            expected_version=given(request, "expected_version", None),
            extend_timeout_minutes=given(request, "extend_timeout_minutes", None),
        )

    def _details(self, request: Any) -> tuple[str | None, list[Violation]]:
        if not request.HasField("status_details"):
            return None, []
        return to_json(request.status_details, "status_details", self._max_document_bytes)


def _pending_limit(
    request: pb.ListPendingExecutionsRequest | pb.WatchPendingExecutionsRequest,
) -> int:
    limit = given(request, "limit", DEFAULT_PENDING)
    checks.require(checks.check_range("limit", limit, 1, MAX_PENDING))
    return limit


def _reporting_device(caller: Principal, request: pb.ReportExecutionsRequest) -> str:
    """Whose report it is: a device's own, or, of a caller that is none, the one it names."""
    violations = checks.check_report_id(request.report_id)
    if caller.device_id is None:
        violations += checks.check_text("device_id", request.device_id, checks.MAX_ID)
    elif request.device_id not in ("", caller.device_id):
        violations.append(Violation("device_id", "device_id is not the calling device"))
    checks.require(violations)
    return caller.device_id or request.device_id


def _reported(report: Report, row: Row, *, with_document: bool = True) -> pb.DeviceExecution:
    """The execution after a report; raises what the report met."""
    match row["outcome"]:
        case "EXECUTION_NOT_FOUND":
            raise ExecutionNotFound(report.job_id, report.device_id)
        case "EXECUTION_OVER":
            raise ExecutionOver(report.job_id, report.device_id, row["met_status"])
        case "EXECUTION_CHANGED":
            raise ExecutionChanged(device_execution_from_row(row, with_document=with_document))
    return device_execution_from_row(row, with_document=with_document)
