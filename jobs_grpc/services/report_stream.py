"""Applies the reports of a ReportExecutions stream."""

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from functools import partial
from typing import TypeAlias

from fleet.jobs.v1 import device_jobs_pb2 as pb
from fleet.jobs.v1.error_reason_pb2 import ErrorReason
from grpc.aio import ServicerContext

from jobs_grpc.auth.principal import Principal
from jobs_grpc.contract.field_rules import check, rules_of
from jobs_grpc.db.last_seen import LastSeen
from jobs_grpc.db.store import ExecutionUpdate, Row
from jobs_grpc.db.update_batcher import UpdateBatcher
from jobs_grpc.errors import (
    Internal,
    InvalidField,
    JobsError,
    ServerStopping,
    Violation,
)
from jobs_grpc.limits.fair_slots import FairSlots
from jobs_grpc.limits.memory_limit import MemoryLimit, Reservation, decoded_bytes, response_bytes
from jobs_grpc.observability import logs
from jobs_grpc.services import validation
from jobs_grpc.services.execution_updates import parse_update, updated_execution
from jobs_grpc.services.row_conversions import MessageFields

logger = logging.getLogger(__name__)
access_logger = logging.getLogger("jobs_grpc.calls")

# Maximum number of reports of one stream that are processed concurrently. When it is reached, the
# server reads no more reports, and flow control stops the client.
MAX_REPORTS_IN_FLIGHT = 256

_MAX_REPORTS = rules_of(pb.ReportExecutionsRequest, "reports").repeated.max_items
_MAX_ID_LENGTH = rules_of(pb.ReportExecutionsRequest, "report_id").string.max_len

# Details in a row take up to this many times their size as compact JSON: PostgreSQL adds spaces,
# and with one emoji Python takes four bytes for each character. In a response they take no more.
_DETAILS_RATIO = 6

# The memory of a row without details, with its queued update and result.
_ROW_BYTES = 4096

REPORT_LOG_SECONDS = 60.0
"""The time from the first report that has not been logged to the line that counts it."""

# Bytes of reports that are converted between two calls of yield_now: at most about 3 ms.
_BYTES_PER_YIELD = 8 * 1024

Report: TypeAlias = pb.ReportExecutionsRequest | pb.ExecutionReport
"""One report. A message with a single report has the same fields as one of several."""

Updates: TypeAlias = list[ExecutionUpdate | Exception] | InvalidField
"""The updates of a message; exceptions stand for invalid reports, or for an invalid message."""


class ReportStream:
    """One ReportExecutions stream of `caller`.

    The streams of all tenants yield in `slots` while they convert large messages, so that other
    calls run in between. `stopping` is set when the server begins to stop.
    """

    def __init__(
        self,
        batcher: UpdateBatcher,
        last_seen: LastSeen,
        memory: MemoryLimit,
        slots: FairSlots,
        max_document_bytes: int,
        stopping: asyncio.Event,
        caller: Principal,
        log_seconds: float = REPORT_LOG_SECONDS,
    ) -> None:
        self._batcher = batcher
        self._last_seen = last_seen
        self._memory = memory
        self._slots = slots
        self._max_document_bytes = max_document_bytes
        self._stopping = stopping
        self._caller = caller
        self._log_seconds = log_seconds
        self._unlogged = 0
        self._logging: asyncio.TimerHandle | None = None
        self._in_flight = 0
        self._responded = asyncio.Event()
        self._write_lock = asyncio.Lock()

    async def run(
        self,
        requests: AsyncIterator[pb.ReportExecutionsRequest],
        context: ServicerContext[pb.ReportExecutionsRequest, bytes],
    ) -> None:
        """Respond to each message until the client ends the stream.

        While reports arrive, writes a line per REPORT_LOG_SECONDS with their number to the access
        log. Raises ServerStopping when the server stops first.
        """
        try:
            await self._run(requests, context)
        finally:
            if self._logging:
                self._logging.cancel()
                self._log_reports()

    async def _run(
        self,
        requests: AsyncIterator[pb.ReportExecutionsRequest],
        context: ServicerContext[pb.ReportExecutionsRequest, bytes],
    ) -> None:
        async with asyncio.TaskGroup() as group:

            async def read() -> None:
                # Wait before the message is read, because the reader reserves its bytes.
                while True:
                    await self._wait_for_room()
                    request = await anext(requests, None)
                    if request is None:
                        return
                    # Here, so that reports on an execution stay in order.
                    updates = await self._parse_message(request)
                    # A message that is rejected as a whole can have more.
                    count = min(max(1, len(request.reports)), _MAX_REPORTS)
                    self._in_flight += count
                    self._count(count)
                    reservation = self._reserve(request, count)
                    responding = self._respond(request, updates, reservation, context)
                    # Not when the coroutine ends: a task can be canceled before it begins.
                    group.create_task(responding).add_done_callback(
                        partial(self._end_message, count, reservation)
                    )
                    # A stream holds no message while it waits for the next one.
                    del request, updates

            # When the server stops, read no more reports but respond to those in flight. The client
            # sends the others again, also one that waits for the memory limit or for a slot.
            reading = group.create_task(read())
            stopping = group.create_task(self._stopping.wait())
            await asyncio.wait({reading, stopping}, return_when=asyncio.FIRST_COMPLETED)
            stopping.cancel()
            interrupted = reading.cancel()  # True if the client had not ended its stream
        if interrupted:
            raise ServerStopping

    def _count(self, reports: int) -> None:
        self._unlogged += reports
        if not self._logging:
            loop = asyncio.get_running_loop()
            self._logging = loop.call_later(self._log_seconds, self._log_reports)

    def _log_reports(self) -> None:
        self._logging = None
        logs.log_fields(
            access_logger,
            logging.INFO,
            "ReportExecutions stream",
            {
                "tenant": self._caller.tenant_id,
                "subject": self._caller.subject,
                "device_id": self._caller.device_id,
                "reports": self._unlogged,
            },
        )
        self._unlogged = 0

    async def _wait_for_room(self) -> None:
        while self._in_flight >= MAX_REPORTS_IN_FLIGHT:
            self._responded.clear()
            await self._responded.wait()

    def _reserve(self, request: pb.ReportExecutionsRequest, count: int) -> Reservation:
        """Count the bytes of a message and of its rows, which have the stored details.

        It does not wait: the reader waits before it decodes a message.
        """
        reservation = Reservation(self._memory, self._caller.tenant_id)
        rows_bytes = count * _ROW_BYTES
        # In a message with several reports, the rows have no details.
        if not request.reports:
            rows_bytes += _DETAILS_RATIO * self._max_document_bytes
        reservation.set_size(decoded_bytes(request.ByteSize()) + rows_bytes)
        return reservation

    async def _respond(
        self,
        request: pb.ReportExecutionsRequest,
        updates: Updates,
        reservation: Reservation,
        context: ServicerContext[pb.ReportExecutionsRequest, bytes],
    ) -> None:
        raw_response = (await self._apply(request, updates)).SerializeToString()
        # The response can wait for long until the client reads it. Hold only its bytes.
        del request, updates
        reservation.set_size(response_bytes(len(raw_response)))
        async with self._write_lock:
            await context.write(raw_response)

    def _end_message(self, count: int, reservation: Reservation, _: object) -> None:
        reservation.release()
        self._in_flight -= count
        self._responded.set()

    async def _parse_message(self, request: pb.ReportExecutionsRequest) -> Updates:
        """Convert the reports of a message; lets other calls run at times."""
        if not request.reports:
            return [await self._parse(request, with_details=True)]
        if violations := _check_message(request):
            return InvalidField(violations)
        reports = request.reports
        per_yield = max(1, len(reports) * _BYTES_PER_YIELD // request.ByteSize())
        updates: list[ExecutionUpdate | Exception] = []
        for number, report in enumerate(reports):
            if number % per_yield == 0 and per_yield < len(reports):
                await self._yield_now()
            updates.append(await self._parse(report, with_details=False))
        return updates

    async def _yield_now(self) -> None:
        await self._slots.yield_now(self._caller.tenant_id)

    async def _parse(self, report: Report, *, with_details: bool) -> ExecutionUpdate | Exception:
        """Convert a report to an update. Returns exceptions, so that other reports go on."""
        try:
            device_id = _reporting_device(self._caller, report)
            self._last_seen.mark(self._caller.tenant_id, device_id)
            return await parse_update(
                report.report,
                device_id,
                self._max_document_bytes,
                self._yield_now,
                with_document=False,
                with_details=with_details,
                principal=self._caller,
            )
        except Exception as e:
            return e

    async def _apply(
        self, request: pb.ReportExecutionsRequest, updates: Updates
    ) -> pb.ReportExecutionsResponse:
        """Apply the updates of a message; errors become part of the response."""
        if isinstance(updates, InvalidField):
            error = item_error(updates)
            return pb.ReportExecutionsResponse(report_id=_valid_report_id(request), error=error)
        valid = [update for update in updates if isinstance(update, ExecutionUpdate)]
        outcomes = iter(await self._batcher.update_all(self._caller.tenant_id, valid))
        several = bool(request.reports)
        reports: Sequence[Report] = request.reports if several else [request]
        results = [
            _result(
                report,
                update if isinstance(update, Exception) else next(outcomes),
                with_details=not several,
            )
            for report, update in zip(reports, updates, strict=True)
        ]
        if several:
            return pb.ReportExecutionsResponse(results=results)
        return pb.ReportExecutionsResponse(**results[0])


def _check_message(request: pb.ReportExecutionsRequest) -> list[Violation]:
    """Check a message with several reports as a whole."""
    if violations := check(request):
        return violations
    if request.report_id or request.device_id or request.HasField("report"):
        problem = "reports must be empty if report_id, device_id or report is set"
        return [Violation("reports", problem)]
    return []


def _result(report: Report, outcome: Row | Exception, *, with_details: bool) -> MessageFields:
    """The fields of a result. `outcome` is the row of the update, or why there is none."""
    report_id = _valid_report_id(report)
    if isinstance(outcome, Exception):
        return {"report_id": report_id, "error": item_error(outcome)}
    try:
        execution = updated_execution(
            report.report.job_id, report.device_id, outcome, with_details=with_details
        )
    except Exception as e:
        return {"report_id": report_id, "error": item_error(e)}
    return {"report_id": report_id, "execution": execution}


def _valid_report_id(report: Report) -> str:
    """The report_id, or "" if it is too long to be returned."""
    return report.report_id if len(report.report_id) <= _MAX_ID_LENGTH else ""


def _reporting_device(caller: Principal, report: Report) -> str:
    """The device of a report: the calling device, or the one that a bridge names."""
    violations, device_id = check(report), report.device_id
    if caller.device_id is None:
        if not device_id:
            violations.append(Violation("device_id", "device_id is required"))
    elif device_id not in ("", caller.device_id):
        problem = "device_id must be empty or the id of the calling device"
        violations.append(Violation("device_id", problem))
    validation.raise_for_violations(violations)
    return caller.device_id or device_id


def item_error(error: Exception) -> pb.ItemError:
    """Convert the error of one report or device of several, for the response."""
    if not isinstance(error, JobsError):
        # A bug that one report triggers must not end the stream for the other reports.
        logger.error("report failed", exc_info=error)
        error = Internal()
    return pb.ItemError(
        code=error.code.value[0],
        reason=ErrorReason.Value(error.reason),
        message=error.message,
        current_execution=error.current_execution,
    )
