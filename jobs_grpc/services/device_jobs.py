"""DeviceJobService: each method checks the request, delegates to the store, maps the answer."""

import asyncio
import logging
from collections.abc import AsyncIterator, MutableSequence
from contextlib import aclosing, suppress
from typing import Any

from fleet.jobs.v1 import device_jobs_pb2 as pb
from fleet.jobs.v1 import device_jobs_pb2_grpc
from fleet.jobs.v1.jobs_pb2 import JobExecution
from grpc.aio import ServicerContext

from jobs_grpc.auth.principal import Principal, current_device, current_principal
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
from jobs_grpc.services.conversions import Fields, device_execution_fields, optional_or
from jobs_grpc.services.struct_json import to_json
from jobs_grpc.services.watch_hub import WatchHub

logger = logging.getLogger(__name__)

DEFAULT_PENDING = 10
MAX_PENDING = 100

# Of one stream; the client is held back beyond that.
MAX_REPORTS_UNDER_WAY = 256

# Seconds between looks at the devices that watch.
WATCH_INTERVAL = 0.5


class DeviceJobService(device_jobs_pb2_grpc.DeviceJobServiceServicer):
    """The device's side; the contract is in device_jobs.proto."""

    def __init__(
        self, store: Store, batcher: UpdateBatcher, max_document_bytes: int, stopping: asyncio.Event
    ) -> None:
        self._store = store
        self._batcher = batcher
        self._max_document_bytes = max_document_bytes
        self._stopping = stopping
        self._watching = WatchHub(self._markers, WATCH_INTERVAL, stopping)

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
        validation.require(violations)
        tenant_id, device_id = current_device()
        row = await self._batcher.update(
            tenant_id, ExecutionUpdate(None, device_id, None, status_details=details, next=True)
        )
        return pb.StartNextExecutionResponse(
            execution=None if row["outcome"] == "NONE" else device_execution_fields(row)
        )

    async def StartExecution(
        self,
        request: pb.StartExecutionRequest,
        context: ServicerContext[pb.StartExecutionRequest, pb.StartExecutionResponse],
    ) -> pb.StartExecutionResponse:
        details, violations = self._details(request)
        validation.require(violations + validation.check_job_id(request.job_id))
        tenant_id, device_id = current_device()
        row = await self._batcher.update(
            tenant_id, ExecutionUpdate(request.job_id, device_id, None, status_details=details)
        )
        return pb.StartExecutionResponse(execution=_updated(request.job_id, device_id, row))

    async def GetExecution(
        self,
        request: pb.GetExecutionRequest,
        context: ServicerContext[pb.GetExecutionRequest, pb.GetExecutionResponse],
    ) -> pb.GetExecutionResponse:
        validation.require(validation.check_job_id(request.job_id))
        tenant_id, device_id = current_device()
        row = await self._store.get_execution(tenant_id, device_id=device_id, job_id=request.job_id)
        return pb.GetExecutionResponse(execution=device_execution_fields(row))

    async def UpdateExecution(
        self,
        request: pb.UpdateExecutionRequest,
        context: ServicerContext[pb.UpdateExecutionRequest, pb.UpdateExecutionResponse],
    ) -> pb.UpdateExecutionResponse:
        tenant_id, device_id = current_device()
        row = await self._batcher.update(tenant_id, self._checked(request, device_id))
        return pb.UpdateExecutionResponse(execution=_updated(request.job_id, device_id, row))

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
        rows = await self._store.pending_fingerprints(tenant_id, device_ids=device_ids)
        return {row["device_id"]: row["fingerprint"] for row in rows}

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
        return pagination.fill(page, map(device_execution_fields, rows), limit)

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
        try:
            device_id = _reporting_device(caller, request)
            update = self._checked(request.report, device_id, with_document=False)
            row = await self._batcher.update(caller.tenant_id, update)
            execution = _updated(request.report.job_id, device_id, row)
        except JobsError as e:
            error = _report_error(e)
        except Exception:
            # A defect that one report meets is not to cost the others their stream.
            logger.exception("a report failed")
            error = _report_error(Internal())
        else:
            return pb.ReportExecutionsResponse(report_id=request.report_id, execution=execution)
        return pb.ReportExecutionsResponse(report_id=request.report_id, error=error)

    def _checked(
        self, request: pb.UpdateExecutionRequest, device_id: str, *, with_document: bool = True
    ) -> ExecutionUpdate:
        details, violations = self._details(request)
        validation.require(
            violations
            + validation.check_job_id(request.job_id)
            + validation.check_reported_status(request.status)
            + validation.check_extension(request)
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

    def _details(self, request: Any) -> tuple[str | None, list[Violation]]:
        if not request.HasField("status_details"):
            return None, []
        return to_json(request.status_details, "status_details", self._max_document_bytes)


def _pending_limit(
    request: pb.ListPendingExecutionsRequest | pb.WatchPendingExecutionsRequest,
) -> int:
    limit = optional_or(request, "limit", DEFAULT_PENDING)
    validation.require(validation.check_range("limit", limit, 1, MAX_PENDING))
    return limit


def _reporting_device(caller: Principal, request: pb.ReportExecutionsRequest) -> str:
    """Whose report it is: a device's own, or, of a caller that is none, the one it names."""
    violations = validation.check_report_id(request.report_id)
    if caller.device_id is None:
        violations += validation.check_text("device_id", request.device_id, validation.MAX_ID)
    elif request.device_id not in ("", caller.device_id):
        violations.append(Violation("device_id", "device_id is not the calling device"))
    validation.require(violations)
    return caller.device_id or request.device_id


def _updated(job_id: str, device_id: str, row: Row) -> Fields:
    """The DeviceExecution after an update; raises what the update met."""
    match row["outcome"]:
        case "EXECUTION_NOT_FOUND":
            raise ExecutionNotFound(job_id, device_id)
        case "EXECUTION_FINISHED":
            raise ExecutionFinished(job_id, device_id, row["met_status"])
        case "EXECUTION_CHANGED":
            raise ExecutionChanged(pb.DeviceExecution(**device_execution_fields(row)))
    return device_execution_fields(row)


def _report_error(error: JobsError) -> pb.ReportError:
    return pb.ReportError(
        code=error.code.value[0],
        reason=error.reason,
        message=error.message,
        present=error.present if isinstance(error, ExecutionChanged) else None,
    )
