"""The calls of one simulated device."""

import asyncio
from collections.abc import AsyncIterator

from fleet.jobs.v1 import device_jobs_pb2 as pb

from jobs_grpc.client import DeviceClient, JobsError
from jobs_grpc.dev.simulator.persistence import call_with_retries, is_permanent
from jobs_grpc.dev.simulator.totals import Totals

# Seconds between a watch that failed for an unknown cause and the next one.
_WATCH_DELAY = 1.0


class SimulatedClient:
    """The calls of one device. `call_slots` bounds the fleet's concurrent unary calls.

    Watches have a connection of their own, so that they do not use up the streams of the other.
    """

    def __init__(
        self,
        client: DeviceClient,
        watch_client: DeviceClient,
        call_slots: asyncio.Semaphore,
        totals: Totals,
    ) -> None:
        self._client = client
        self._watch_client = watch_client
        self._call_slots = call_slots
        self._totals = totals

    @property
    def poll_after(self) -> float:
        """Seconds until the next poll that the server asked for."""
        return self._client.poll_after

    async def start_next(self) -> pb.DeviceExecution | None:
        """Start the next execution, with retries; None if there is none."""

        async def send() -> pb.DeviceExecution | None:
            async with self._call_slots:
                return await self._client.start_next()

        self._totals.record_call()
        execution = await call_with_retries(send, self._totals.record_error)
        self._totals.record_response()
        return execution

    async def report(self, _device_id: str, update: pb.UpdateExecutionRequest) -> None:
        """Report once, without retries. Raises JobsError."""
        async with self._call_slots:
            await self._client.report(update)

    async def watch_pending(self) -> AsyncIterator[pb.WatchPendingExecutionsResponse]:
        """Yield the pending executions now and after each change; reconnects forever."""
        self._totals.record_call()
        while True:
            try:
                async for response in self._watch_client.watch_pending():
                    self._totals.record_response()
                    yield response
            except JobsError as e:
                if is_permanent(e):
                    raise
                self._totals.record_error(e)
            await asyncio.sleep(_WATCH_DELAY)
