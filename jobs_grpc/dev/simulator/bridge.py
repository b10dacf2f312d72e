"""Reports of many devices over one stream."""

import asyncio
import itertools
from dataclasses import dataclass
from typing import Any

import grpc
from fleet.jobs.v1 import device_jobs_pb2 as pb
from fleet.jobs.v1 import device_jobs_pb2_grpc

from jobs_grpc.client.retry import Backoff, CallFailed, Persistence

_CODES = {code.value[0]: code for code in grpc.StatusCode}

_INTERNAL = grpc.StatusCode.INTERNAL


@dataclass(frozen=True, slots=True)
class _Sent:
    request: pb.ReportExecutionsRequest
    answer: "asyncio.Future[None]"


class Bridge:
    """One ReportExecutions stream at a time; what was not answered is sent on the next one."""

    def __init__(
        self,
        stub: "device_jobs_pb2_grpc.DeviceJobServiceAsyncStub",
        metadata: tuple[tuple[str, str], ...],
        persistence: Persistence,
    ) -> None:
        self._stub: Any = stub
        self._metadata = metadata
        self._persistence = persistence
        self._numbers = itertools.count(1)
        # In the order of their calls. A device waits for its answer, so it is here once.
        self._unanswered: dict[str, _Sent] = {}
        self._outbox: asyncio.Queue[str] = asyncio.Queue()

    async def report(self, device_id: str, update: pb.UpdateExecutionRequest) -> None:
        """Return once the report is stored; raises CallFailed if it was not taken."""
        report_id = str(next(self._numbers))
        request = pb.ReportExecutionsRequest(
            report_id=report_id, device_id=device_id, report=update
        )
        sent = _Sent(request, asyncio.get_running_loop().create_future())
        self._unanswered[report_id] = sent
        self._outbox.put_nowait(report_id)
        try:
            await sent.answer
        finally:
            self._unanswered.pop(report_id, None)

    async def run(self) -> None:
        """Keep a stream open for ever. Raises CallFailed when no later one would fare better."""
        backoff = Backoff()
        while True:
            try:
                await self._stream(backoff)
            except (grpc.aio.AioRpcError, CallFailed) as e:
                self._persistence.failed(e)
            await backoff.wait()

    async def _stream(self, backoff: Backoff) -> None:
        self._outbox = asyncio.Queue()
        for report_id in self._unanswered:
            self._outbox.put_nowait(report_id)
        call = self._stub.ReportExecutions(metadata=self._metadata)
        writing = asyncio.create_task(self._write(call))
        reading = asyncio.create_task(self._read(call, backoff))
        both = {writing, reading}
        try:
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in both:
                task.cancel()
            await asyncio.wait(both)
            call.cancel()
        _raise_reason(reading, writing)

    async def _write(self, call: Any) -> None:
        while True:
            sent = self._unanswered.get(await self._outbox.get())
            if sent:
                await call.write(sent.request)

    async def _read(self, call: Any, backoff: Backoff) -> None:
        async for response in call:
            backoff.reset()
            self._persistence.succeeded()
            sent = self._unanswered.pop(response.report_id, None)
            if sent is None or sent.answer.done():
                continue
            if response.WhichOneof("result") == "error":
                code = _CODES.get(response.error.code, grpc.StatusCode.UNKNOWN)
                sent.answer.set_exception(CallFailed(code, response.error.message))
            else:
                sent.answer.set_result(None)


def _raise_reason(reading: "asyncio.Task[None]", writing: "asyncio.Task[None]") -> None:
    """Raise what a stream has ended with, if the server said it."""
    error = None if reading.cancelled() else reading.exception()
    internal = isinstance(error, grpc.aio.AioRpcError) and error.code() is _INTERNAL
    if error and not internal:
        raise error
    if not writing.cancelled() and writing.exception():
        # A write that finds the connection gone makes gRPC call it an internal error.
        raise CallFailed(grpc.StatusCode.UNAVAILABLE, "the stream has broken off")
    if error:
        raise error
