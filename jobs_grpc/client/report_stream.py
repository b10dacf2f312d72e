"""The stream of reports of many devices, with back-pressure and repeats."""

import asyncio
import itertools
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, TypeAlias

import grpc
from fleet.jobs.v1 import device_jobs_pb2 as pb

from jobs_grpc.client.calls import ServiceCalls
from jobs_grpc.client.errors import (
    JobsError,
    Overloaded,
    create_error,
    from_item_error,
    from_rpc_error,
)
from jobs_grpc.client.retry import Delays, is_transient
from jobs_grpc.contract.field_rules import rules_of

# Limits of one message: the contract's number of reports, and a size below the default of
# JOBS_MAX_REQUEST_BYTES. A larger message would end the stream.
_MAX_REPORTS = rules_of(pb.ReportExecutionsRequest, "reports").repeated.max_items
_MAX_MESSAGE_BYTES = 200_000

_Key: TypeAlias = tuple[str, str]


@dataclass(eq=False, slots=True)
class _Pending:
    """A report without an answer."""

    report: pb.ExecutionReport
    size: int
    result: "asyncio.Future[pb.DeviceExecution]"

    @property
    def key(self) -> _Key:
        """What the report is about: its device and its job."""
        return self.report.device_id, self.report.report.job_id


class ReportStream:
    """Sends reports over one ReportExecutions stream, up to 100 in one message.

    At most `max_pending` reports have no answer; `send` waits while that many do. When the
    stream breaks, it reconnects and sends the reports without an answer again. A repeated report
    has no second effect: it names its attempt, and a report on an execution is sent only after
    the answer to the previous one.
    """

    def __init__(self, calls: ServiceCalls, max_pending: int) -> None:
        """Use `DeviceClient.report_stream` instead."""
        if max_pending < 1:
            raise ValueError("max_pending must be at least 1")
        self._calls = calls
        self._report_ids = map(str, itertools.count(1))
        self._slots = asyncio.Semaphore(max_pending)
        # The reports on each execution, in order. Only the first of each is sent.
        self._queues: dict[_Key, deque[_Pending]] = {}
        # The first reports of all queues, by report id.
        self._sendable: dict[str, _Pending] = {}
        self._outbox: deque[_Pending] = deque()
        self._outbox_filled = asyncio.Event()
        self._all_answered = asyncio.Event()
        self._all_answered.set()
        # Why no more reports are accepted.
        self._failure: Exception | None = None

    async def send(
        self, update: pb.UpdateExecutionRequest, *, device_id: str = ""
    ) -> "asyncio.Future[pb.DeviceExecution]":
        """Queue a report; wait while too many have no answer. Return the future of its answer.

        The future has the execution without its documents, or a JobsError. `device_id` is not
        needed if the client has one. `update` must have an execution_number and must not change
        until the answer. Raises JobsError if the server has refused the stream for good.
        """
        if not update.HasField("execution_number"):
            raise ValueError("a report of a stream needs an execution_number")
        if update.HasField("expected_version"):
            raise ValueError("a report of a stream can't have an expected_version")
        report = pb.ExecutionReport(
            report_id=next(self._report_ids), device_id=device_id, report=update
        )
        if (size := report.ByteSize()) > _MAX_MESSAGE_BYTES:
            raise ValueError(f"the report has {size} bytes; at most {_MAX_MESSAGE_BYTES} are sent")
        await self._slots.acquire()
        if self._failure:
            self._slots.release()
            raise self._failure
        pending = _Pending(report, size, asyncio.get_running_loop().create_future())
        self._all_answered.clear()
        queue = self._queues.setdefault(pending.key, deque())
        queue.append(pending)
        if len(queue) == 1:
            self._make_sendable(pending)
        return pending.result

    async def report(
        self, update: pb.UpdateExecutionRequest, *, device_id: str = ""
    ) -> pb.DeviceExecution:
        """Send a report and return the execution when it is stored. Raises JobsError."""
        return await (await self.send(update, device_id=device_id))

    async def flush(self) -> None:
        """Return when all reports have an answer."""
        await self._all_answered.wait()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Keep the stream open within the block."""
        task = asyncio.create_task(self._run())
        try:
            yield
            await self.flush()
            if self._failure:
                raise self._failure
        finally:
            task.cancel()
            await asyncio.wait([task])
            self._failure = RuntimeError("the stream of reports is closed")
            self._drop_all(None)

    async def _run(self) -> None:
        try:
            await self._keep_open()
        except Exception as e:
            self._failure = e
            self._drop_all(e)

    async def _keep_open(self) -> None:
        """Keep a stream open. Raises JobsError for an error that a reconnect does not solve."""
        delays = Delays(self._calls.retry)
        while True:
            received = False

            def on_response() -> None:
                nonlocal received
                received = True
                delays.reset()

            self._outbox = deque(self._sendable.values())
            if self._outbox:
                self._outbox_filled.set()
            try:
                await self._run_stream(on_response)
                error = create_error(grpc.StatusCode.UNAVAILABLE, "the stream was interrupted")
            except grpc.aio.AioRpcError as e:
                error = from_rpc_error(e)
            except JobsError as e:
                error = e
            await asyncio.sleep(self._calls.reconnect_delay(error, received, delays))

    async def _run_stream(self, on_response: Callable[[], None]) -> None:
        call = await self._calls.open_stream("ReportExecutions")
        writer = asyncio.create_task(self._write(call))
        reader = asyncio.create_task(self._read(call, on_response))
        tasks = {writer, reader}
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            if not reader.done():
                # The write failed. The reader knows the status of the call.
                await asyncio.wait([reader], timeout=1)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
            call.cancel()
        write_failed = not writer.cancelled() and writer.exception() is not None
        error = None if reader.cancelled() else reader.exception()
        if isinstance(error, grpc.aio.AioRpcError) and error.code() is grpc.StatusCode.INTERNAL:
            # gRPC reports INTERNAL to the reader when a write fails on a lost connection.
            error = None if write_failed else error
        if error:
            raise error

    async def _write(self, call: Any) -> None:
        while True:
            if not self._outbox:
                self._outbox_filled.clear()
                await self._outbox_filled.wait()
            reports: list[pb.ExecutionReport] = []
            size = 0
            while self._outbox and len(reports) < _MAX_REPORTS:
                size += self._outbox[0].size + 8  # with the tag and the length of the field
                if reports and size > _MAX_MESSAGE_BYTES:
                    break
                reports.append(self._outbox.popleft().report)
            await call.write(pb.ReportExecutionsRequest(reports=reports))

    async def _read(self, call: Any, on_response: Callable[[], None]) -> None:
        async for response in call:
            if response.HasField("error"):
                # It is about a whole message, which the contract does not allow for ours.
                raise from_item_error(response.error)
            on_response()
            for result in response.results:
                if pending := self._sendable.get(result.report_id):
                    self._answer(pending, result)

    def _answer(self, pending: _Pending, result: pb.ReportResult) -> None:
        error = from_item_error(result.error) if result.HasField("error") else None
        if error and (isinstance(error, Overloaded) or is_transient(error)):
            # The queue of the execution waits meanwhile, so the order stays.
            delay = self._calls.retry.first_delay
            asyncio.get_running_loop().call_later(delay, self._send_again, pending, self._outbox)
            return
        del self._sendable[pending.report.report_id]
        queue = self._queues[pending.key]
        queue.popleft()
        if queue:
            self._make_sendable(queue[0])
        else:
            del self._queues[pending.key]
        if not self._queues:
            self._all_answered.set()
        self._slots.release()
        if pending.result.done():
            return  # the caller has canceled the future
        if error:
            pending.result.set_exception(error)
        else:
            pending.result.set_result(result.execution)

    def _send_again(self, pending: _Pending, outbox: "deque[_Pending]") -> None:
        # A new stream has a new outbox, which started with all reports.
        if outbox is self._outbox:
            self._outbox.append(pending)
            self._outbox_filled.set()

    def _make_sendable(self, pending: _Pending) -> None:
        self._sendable[pending.report.report_id] = pending
        self._outbox.append(pending)
        self._outbox_filled.set()

    def _drop_all(self, error: Exception | None) -> None:
        """Fail all reports with `error`, or cancel them if there is none."""
        for pending in itertools.chain.from_iterable(self._queues.values()):
            self._slots.release()
            if pending.result.done():
                continue
            if error:
                pending.result.set_exception(error)
            else:
                pending.result.cancel()
        self._queues.clear()
        self._sendable.clear()
        self._outbox.clear()
        self._all_answered.set()
