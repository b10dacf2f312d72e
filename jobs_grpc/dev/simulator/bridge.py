"""Sends the reports of many devices over one stream, as an MQTT broker would."""

import asyncio
import itertools
from dataclasses import dataclass
from typing import Any

import grpc
from fleet.jobs.v1 import device_jobs_pb2 as pb
from fleet.jobs.v1 import device_jobs_pb2_grpc

from jobs_grpc.client.retry import Backoff, CallError, require_retryable
from jobs_grpc.dev.simulator.totals import Totals

_CODES = {code.value[0]: code for code in grpc.StatusCode}


# Maximum number of reports of one message.
_MAX_REPORTS = 100


@dataclass(frozen=True, slots=True)
class _PendingReport:
    report: pb.ExecutionReport
    result: "asyncio.Future[None]"


class Bridge:
    """Keeps one ReportExecutions stream open.

    Reports that arrive while a message is being sent share the next message. Reports without a
    response are sent again on the next stream.
    """

    def __init__(
        self,
        stub: "device_jobs_pb2_grpc.DeviceJobServiceAsyncStub",
        metadata: tuple[tuple[str, str], ...],
        totals: Totals,
    ) -> None:
        self._stub: Any = stub
        self._metadata = metadata
        self._totals = totals
        self._report_ids = map(str, itertools.count(1))
        # By report id, in the order of the calls. A device waits for its response, so that
        # it has at most one pending report.
        self._pending: dict[str, _PendingReport] = {}
        self._outbox: asyncio.Queue[str] = asyncio.Queue()

    async def report(self, device_id: str, update: pb.UpdateExecutionRequest) -> None:
        """Send a report and wait until it is stored. Raises CallError if it is rejected."""
        report_id = next(self._report_ids)
        report = pb.ExecutionReport(report_id=report_id, device_id=device_id, report=update)
        pending = _PendingReport(report, asyncio.get_running_loop().create_future())
        self._pending[report_id] = pending
        self._outbox.put_nowait(report_id)
        try:
            await pending.result
        finally:
            self._pending.pop(report_id, None)

    async def run(self) -> None:
        """Keep a stream open until the task is canceled. Raises CallError for a permanent error."""
        backoff = Backoff()
        while True:
            try:
                await self._run_stream(backoff)
            except (grpc.aio.AioRpcError, CallError) as e:
                self._totals.record_error(require_retryable(e))
            await backoff.wait()

    async def _run_stream(self, backoff: Backoff) -> None:
        self._outbox = asyncio.Queue()
        for report_id in self._pending:
            self._outbox.put_nowait(report_id)
        call = self._stub.ReportExecutions(metadata=self._metadata)
        writer = asyncio.create_task(self._write(call))
        reader = asyncio.create_task(self._read(call, backoff))
        tasks = {writer, reader}
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
            call.cancel()
        _raise_error(reader, writer)

    async def _write(self, call: Any) -> None:
        while True:
            report_ids = [await self._outbox.get()]
            while len(report_ids) < _MAX_REPORTS and not self._outbox.empty():
                report_ids.append(self._outbox.get_nowait())
            pending = filter(None, map(self._pending.get, report_ids))
            if reports := [p.report for p in pending]:
                await call.write(pb.ReportExecutionsRequest(reports=reports))

    async def _read(self, call: Any, backoff: Backoff) -> None:
        async for response in call:
            backoff.reset()
            self._totals.record_response()
            if response.HasField("error"):
                raise _call_error(response.error)
            for result in response.results:
                pending = self._pending.pop(result.report_id, None)
                if pending is None or pending.result.done():
                    continue
                if result.HasField("error"):
                    pending.result.set_exception(_call_error(result.error))
                else:
                    pending.result.set_result(None)


def _call_error(error: pb.ReportError) -> CallError:
    return CallError(_CODES.get(error.code, grpc.StatusCode.UNKNOWN), error.message)


def _raise_error(reader: "asyncio.Task[None]", writer: "asyncio.Task[None]") -> None:
    """Raise the error that ended a stream; return if the server closed it without one."""
    error = None if reader.cancelled() else reader.exception()
    is_internal = (
        isinstance(error, grpc.aio.AioRpcError) and error.code() is grpc.StatusCode.INTERNAL
    )
    if error and not is_internal:
        raise error
    if not writer.cancelled() and writer.exception():
        # gRPC reports INTERNAL to the reader when a write fails on a lost connection.
        raise CallError(grpc.StatusCode.UNAVAILABLE, "the stream was interrupted")
    if error:
        raise error
