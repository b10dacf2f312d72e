"""Implements DeviceJobService: each method validates, calls the store and converts the result."""

import asyncio
from collections.abc import AsyncIterator
from functools import partial

from fleet.jobs.v1 import device_jobs_pb2 as pb
from fleet.jobs.v1 import device_jobs_pb2_grpc
from grpc.aio import ServicerContext

from jobs_grpc.auth.principal import current_principal, current_tenant_and_device
from jobs_grpc.contract.methods import page_size
from jobs_grpc.db.acknowledgement_batcher import AcknowledgementBatcher
from jobs_grpc.db.last_seen import LastSeen
from jobs_grpc.db.store import ExecutionUpdate, PgMicros, Row, Store
from jobs_grpc.db.update_batcher import UpdateBatcher
from jobs_grpc.limits.fair_slots import FairSlots
from jobs_grpc.limits.memory_limit import MemoryLimit
from jobs_grpc.services import page_tokens, validation
from jobs_grpc.services.execution_updates import (
    parse_status_details,
    parse_update,
    reported_fields,
    updated_execution,
)
from jobs_grpc.services.execution_watch import ExecutionWatch
from jobs_grpc.services.facts import FactReport
from jobs_grpc.services.poll_after import PollAfter
from jobs_grpc.services.report_stream import REPORT_LOG_SECONDS, ReportStream
from jobs_grpc.services.response_pages import fill_page
from jobs_grpc.services.row_conversions import (
    MessageFields,
    device_execution_fields,
    ended_executions,
)
from jobs_grpc.services.start_next import start_response, start_updates


class DeviceJobService(device_jobs_pb2_grpc.DeviceJobServiceServicer):
    """The devices' API, documented in device_jobs.proto.

    Large messages and pages are converted in `slots`, so that other calls run in between.
    `stopping` is set when the server begins to stop. For `report_log_seconds` see
    REPORT_LOG_SECONDS.
    """

    def __init__(
        self,
        store: Store,
        batcher: UpdateBatcher,
        last_seen: LastSeen,
        memory: MemoryLimit,
        slots: FairSlots,
        max_document_bytes: int,
        stopping: asyncio.Event,
        poll_after: PollAfter,
        report_log_seconds: float = REPORT_LOG_SECONDS,
    ) -> None:
        self._store = store
        self._batcher = batcher
        self._acknowledgements = AcknowledgementBatcher(store)
        self._last_seen = last_seen
        self._max_document_bytes = max_document_bytes
        self._poll_after = poll_after
        self._yield_now = slots.yield_for_caller
        self._report_stream = partial(
            ReportStream,
            batcher,
            last_seen,
            memory,
            slots,
            max_document_bytes,
            stopping,
            log_seconds=report_log_seconds,
        )
        self.watch = ExecutionWatch(store, memory, stopping, slots.yield_now)

    async def ListPendingExecutions(
        self, request: pb.ListPendingExecutionsRequest, context: object
    ) -> pb.ListPendingExecutionsResponse:
        tenant_id, device_id = self._calling_device()
        limit = _pending_limit(request)
        after_status, after_queue_order, after_queued_at, after_job_id = (
            page_tokens.parse_pending_token(request, device_id)
        )
        rows = await self._store.list_pending_executions(
            tenant_id,
            device_id=device_id,
            after_status=after_status,
            after_queue_order=after_queue_order,
            after_queued_at=after_queued_at,
            after_job_id=after_job_id,
            limit=limit + 1,
        )
        due_in = None
        response = pb.ListPendingExecutionsResponse()
        if rows and rows[-1]["job_id"] is None:
            due_in = _seconds_until_due(rows[-1]["not_before"], rows[-1])
            for ended in ended_executions(rows[-1]):
                response.ended_executions.add(**ended)
            rows = rows[:-1]
        if await fill_page(
            response.executions,
            rows,
            device_execution_fields,
            limit,
            self._yield_now,
            used_bytes=response.ByteSize(),
        ):
            last = rows[len(response.executions) - 1]
            response.next_page_token = page_tokens.page_token(
                request,
                device_id,
                *(last[key] for key in ("status", "queue_order", "queued_at", "job_id")),
            )
        else:
            response.poll_after.CopyFrom(self._poll_after.next(tenant_id, due_in))
        return response

    async def StartNextExecution(
        self, request: pb.StartNextExecutionRequest, context: object
    ) -> pb.StartNextExecutionResponse:
        tenant_id, device_id = self._calling_device()
        details, violations = await parse_status_details(
            request, self._max_document_bytes, self._yield_now
        )
        validation.require_valid(request, violations)
        row = await self._batcher.update(
            tenant_id,
            ExecutionUpdate(
                None,
                device_id,
                None,
                status_details=details,
                must_be_next=True,
                reported=reported_fields(request, current_principal()),
            ),
        )
        return pb.StartNextExecutionResponse(**self._next_fields(tenant_id, row))

    async def StartNextExecutions(
        self, request: pb.StartNextExecutionsRequest, context: object
    ) -> pb.StartNextExecutionsResponse:
        caller = current_principal()
        starts = start_updates(request, caller)
        valid = [each for each in starts if isinstance(each, ExecutionUpdate)]
        for update in valid:
            self._last_seen.mark(caller.tenant_id, update.device_id)
        rows = iter(await self._batcher.update_all(caller.tenant_id, valid))
        return await start_response(
            [next(rows) if isinstance(each, ExecutionUpdate) else each for each in starts],
            partial(self._next_fields, caller.tenant_id),
            self._yield_now,
        )

    def _next_fields(self, tenant_id: str, row: Row) -> MessageFields:
        """The fields of a StartNextExecutionResponse or StartNextResult."""
        # AGAIN: other devices started each time before this one did; the device may call again.
        if row["outcome"] in ("NONE", "AGAIN"):
            due_in = _seconds_until_due(row["due_at"], row)
            fields: MessageFields = {"poll_after": self._poll_after.next(tenant_id, due_in)}
        else:
            fields = {"execution": device_execution_fields(row)}
        return {**fields, "ended_executions": ended_executions(row)}

    async def StartExecution(
        self, request: pb.StartExecutionRequest, context: object
    ) -> pb.StartExecutionResponse:
        tenant_id, device_id = self._calling_device()
        details, violations = await parse_status_details(
            request, self._max_document_bytes, self._yield_now
        )
        validation.require_valid(request, violations)
        row = await self._batcher.update(
            tenant_id,
            ExecutionUpdate(
                request.job_id,
                device_id,
                None,
                status_details=details,
                reported=reported_fields(request, current_principal()),
            ),
        )
        return pb.StartExecutionResponse(
            execution=updated_execution(request.job_id, device_id, row)
        )

    async def GetExecution(
        self, request: pb.GetExecutionRequest, context: object
    ) -> pb.GetExecutionResponse:
        tenant_id, device_id = self._calling_device()
        validation.require_valid(request)
        row = await self._store.get_execution(tenant_id, device_id=device_id, job_id=request.job_id)
        return pb.GetExecutionResponse(execution=device_execution_fields(row))

    async def UpdateExecution(
        self, request: pb.UpdateExecutionRequest, context: object
    ) -> pb.UpdateExecutionResponse:
        tenant_id, device_id = self._calling_device()
        update = await parse_update(
            request,
            device_id,
            self._max_document_bytes,
            self._yield_now,
            principal=current_principal(),
        )
        row = await self._batcher.update(tenant_id, update)
        return pb.UpdateExecutionResponse(
            execution=updated_execution(request.job_id, device_id, row)
        )

    async def AcknowledgeExecutions(
        self, request: pb.AcknowledgeExecutionsRequest, context: object
    ) -> pb.AcknowledgeExecutionsResponse:
        tenant_id, device_id = self._calling_device()
        validation.require_valid(request)
        attempts = [(each.job_id, each.execution_number) for each in request.executions]
        await self._acknowledgements.acknowledge(tenant_id, device_id, attempts)
        return pb.AcknowledgeExecutionsResponse()

    async def ReportExecutions(  # type: ignore[override]  # gRPC allows context.write
        self,
        request_iterator: AsyncIterator[pb.ReportExecutionsRequest],
        context: ServicerContext[pb.ReportExecutionsRequest, bytes],
    ) -> None:
        await self._report_stream(current_principal()).run(request_iterator, context)

    async def WatchPendingExecutions(  # type: ignore[override]  # gRPC allows context.write
        self,
        request: pb.WatchPendingExecutionsRequest,
        context: ServicerContext[pb.WatchPendingExecutionsRequest, bytes],
    ) -> None:
        limit = _pending_limit(request)
        del request
        tenant_id, device_id = current_tenant_and_device()
        with self._last_seen.watching(tenant_id, device_id):
            await self.watch.run(tenant_id, device_id, limit, context.write)

    async def UpdateFacts(
        self, request: pb.UpdateFactsRequest, context: object
    ) -> pb.UpdateFactsResponse:
        caller = current_principal()
        report = await FactReport.read(request, caller, self._yield_now)
        for device_id in report.facts:
            self._last_seen.mark(caller.tenant_id, device_id)
        if report.facts:
            row = await self._store.update_facts(
                caller.tenant_id,
                device_ids=[*report.facts],
                facts=[*report.facts.values()],
                replace=request.replace,
            )
            report.add_refused(row)
        return report.response()

    def _calling_device(self) -> tuple[str, str]:
        """The tenant and device of the caller, which are marked as seen."""
        tenant_id, device_id = current_tenant_and_device()
        self._last_seen.mark(tenant_id, device_id)
        return tenant_id, device_id


def _seconds_until_due(due_at: PgMicros | None, row: Row) -> float | None:
    """The seconds until a waiting execution is due, in whole milliseconds; None: none waits.

    `row` has the time of the database.
    """
    return None if due_at is None else -((row["last_updated_at"] - due_at) // 1000) / 1000


def _pending_limit(
    request: pb.ListPendingExecutionsRequest | pb.WatchPendingExecutionsRequest,
) -> int:
    validation.require_valid(request)
    return page_size(request)
