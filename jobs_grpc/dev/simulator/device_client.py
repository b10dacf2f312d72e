"""The calls of one simulated device."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
from fleet.jobs.v1 import device_jobs_pb2 as pb
from fleet.jobs.v1 import device_jobs_pb2_grpc

from jobs_grpc.client.retry import Backoff, call_with_retries, require_retryable
from jobs_grpc.dev.simulator.totals import Totals


class DeviceClient:
    """DeviceJobService for one device. `call_slots` bounds the fleet's concurrent unary calls.

    Watches have a stub of their own, so that they do not use up the streams of a connection.
    """

    def __init__(
        self,
        stub: "device_jobs_pb2_grpc.DeviceJobServiceAsyncStub",
        watch_stub: "device_jobs_pb2_grpc.DeviceJobServiceAsyncStub",
        metadata: tuple[tuple[str, str], ...],
        timeout: float,
        call_slots: asyncio.Semaphore,
        totals: Totals,
    ) -> None:
        self._stub: Any = stub
        self._watch_stub: Any = watch_stub
        self._metadata = metadata
        self._timeout = timeout
        self._call_slots = call_slots
        self._totals = totals

    async def start_next(self) -> pb.DeviceExecution | None:
        """Start the next execution, with retries; None if there is none."""

        async def send() -> pb.StartNextExecutionResponse:
            response: pb.StartNextExecutionResponse = await self._unary(
                "StartNextExecution", pb.StartNextExecutionRequest()
            )
            return response

        self._totals.record_call()
        response = await call_with_retries(send, self._totals.record_error)
        self._totals.record_response()
        return response.execution if response.HasField("execution") else None

    async def report(self, _device_id: str, update: pb.UpdateExecutionRequest) -> None:
        """Report once, without retries; called like Bridge.report. Raises AioRpcError."""
        await self._unary("UpdateExecution", update)

    async def watch_pending(self) -> AsyncIterator[pb.WatchPendingExecutionsResponse]:
        """Yield the pending executions now and after each change; reconnects forever."""
        backoff = Backoff()
        self._totals.record_call()
        while True:
            call = self._watch_stub.WatchPendingExecutions(
                pb.WatchPendingExecutionsRequest(), metadata=self._metadata
            )
            try:
                async for response in call:
                    backoff.reset()
                    self._totals.record_response()
                    yield response
            except grpc.aio.AioRpcError as e:
                self._totals.record_error(require_retryable(e))
            finally:
                call.cancel()
            await backoff.wait()

    async def _unary(self, method: str, request: Any) -> Any:
        async with self._call_slots:
            return await getattr(self._stub, method)(
                request, metadata=self._metadata, timeout=self._timeout
            )
