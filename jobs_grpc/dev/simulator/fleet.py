"""Simulated devices: clients that carry out jobs as badly as they were told to."""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any, NamedTuple

import grpc
from fleet.jobs.v1 import device_jobs_pb2 as pb
from fleet.jobs.v1 import device_jobs_pb2_grpc
from fleet.jobs.v1.jobs_pb2 import JobExecution

from jobs_grpc.client.channel import KEEPALIVE, NO_PROXY
from jobs_grpc.client.retry import Backoff, Gone, Persistence, Totals
from jobs_grpc.dev.simulator.bridge import Bridge

# Calls of the fleet at a time: bounds memory.
_MAX_CALLS = 256

_FAILURES = ("checksum mismatch", "no space left", "network lost", "installer crashed")

Report = Callable[[str, pb.UpdateExecutionRequest], Awaitable[object]]

_CHANNELS = 4
_CHANNEL_OPTIONS = (
    *KEEPALIVE,
    # Else all channels to an address share one connection.
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 2000),
)


class Plan(NamedTuple):
    """What a device makes of one execution. No ending: it falls silent."""

    ending: str | None
    seconds: float
    reason: str | None


@dataclass(frozen=True, slots=True)
class Behaviour:
    """How devices behave."""

    latency: tuple[float, float]
    failure_rate: float
    reject_rate: float
    silence_rate: float
    progress: int
    seed: int

    def plan(self, device_id: str, number: int) -> Plan:
        """For a device's n-th execution: the same whenever the seed is the same."""
        rng = random.Random(f"{self.seed}/{device_id}/{number}")  # noqa: S311 - a simulation
        seconds, reason = rng.uniform(*self.latency), rng.choice(_FAILURES)
        dice = rng.random()
        if dice < self.silence_rate:
            return Plan(None, seconds, None)
        if dice < self.silence_rate + self.reject_rate:
            return Plan("REJECTED", 0, "battery low")
        if dice < self.silence_rate + self.reject_rate + self.failure_rate:
            return Plan("FAILED", seconds, reason)
        return Plan("SUCCEEDED", seconds, None)


@dataclass(frozen=True, slots=True)
class Fleet:
    """Who the devices are, how they behave, and how they talk to the server."""

    server: str
    metadata: tuple[tuple[str, str], ...]
    device_ids: Sequence[str]
    behaviour: Behaviour
    poll: float | None
    """Seconds between questions for work; None: streams tell of it."""
    bridge: bool
    timeout: float
    credentials: grpc.ChannelCredentials | None = None
    """None: without TLS."""


async def run_fleet(fleet: Fleet, totals: Totals) -> None:
    """Be the fleet until cancelled. Raises a group of CallFailed if the server won't have it."""
    persistence = Persistence(totals)
    slots = asyncio.Semaphore(_MAX_CALLS)
    async with AsyncExitStack() as stack:
        stubs: list[Any] = []
        for _ in range(min(_CHANNELS, len(fleet.device_ids))):
            channel = (
                grpc.aio.secure_channel(fleet.server, fleet.credentials, options=_CHANNEL_OPTIONS)
                if fleet.credentials
                else grpc.aio.insecure_channel(fleet.server, options=(*_CHANNEL_OPTIONS, NO_PROXY))
            )
            await stack.enter_async_context(channel)
            stubs.append(device_jobs_pb2_grpc.DeviceJobServiceStub(channel))
        async with asyncio.TaskGroup() as group:
            bridge = Bridge(stubs[0], fleet.metadata, persistence) if fleet.bridge else None
            if bridge:
                group.create_task(bridge.run())
            for number, device_id in enumerate(fleet.device_ids):
                metadata = (*fleet.metadata, ("x-device-id", device_id))
                stub = stubs[number % len(stubs)]
                calls = Calls(stub, metadata, fleet.timeout, slots, persistence)
                report = bridge.report if bridge else calls.report
                device = Device(device_id, fleet.behaviour, calls, report, persistence, totals)
                group.create_task(device.poll(fleet.poll) if fleet.poll else device.watch())


class Calls:
    """The calls of one device."""

    def __init__(
        self,
        stub: "device_jobs_pb2_grpc.DeviceJobServiceAsyncStub",
        metadata: tuple[tuple[str, str], ...],
        timeout: float,
        slots: asyncio.Semaphore,
        persistence: Persistence,
    ) -> None:
        self._stub: Any = stub
        self._metadata = metadata
        self._timeout = timeout
        self._slots = slots
        self._persistence = persistence

    async def start_next(self) -> pb.DeviceExecution | None:
        """The next execution, started; None if there is none."""

        async def attempt() -> pb.StartNextExecutionResponse:
            response: pb.StartNextExecutionResponse = await self._unary(
                "StartNextExecution", pb.StartNextExecutionRequest()
            )
            return response

        response = await self._persistence.call(attempt)
        return response.execution if response.HasField("execution") else None

    async def report(self, _device_id: str, update: pb.UpdateExecutionRequest) -> None:
        """Report once; raises AioRpcError."""
        await self._unary("UpdateExecution", update)

    async def pending(self) -> AsyncIterator[pb.WatchPendingExecutionsResponse]:
        """What there is to do, again at each change, for ever."""
        backoff = Backoff()
        self._persistence.asks()
        while True:
            call = self._stub.WatchPendingExecutions(
                pb.WatchPendingExecutionsRequest(), metadata=self._metadata
            )
            try:
                async for response in call:
                    backoff.reset()
                    self._persistence.succeeded()
                    yield response
            except grpc.aio.AioRpcError as e:
                self._persistence.failed(e)
            finally:
                call.cancel()
            await backoff.wait()

    async def _unary(self, method: str, request: Any) -> Any:
        async with self._slots:
            return await getattr(self._stub, method)(
                request, metadata=self._metadata, timeout=self._timeout
            )


class Device:
    """One device; `watch` or `poll` is its life."""

    def __init__(
        self,
        device_id: str,
        behaviour: Behaviour,
        calls: Calls,
        report: Report,
        persistence: Persistence,
        totals: Totals,
    ) -> None:
        self._device_id = device_id
        self._behaviour = behaviour
        self._calls = calls
        self._report_once = report
        self._persistence = persistence
        self._totals = totals
        self._number = 0
        # The attempt it has ended, or hangs in.
        self._last: tuple[str, int] | None = None

    async def watch(self) -> None:
        """Wait to be told of work."""
        async for pending in self._calls.pending():
            attempts = {_attempt(execution) for execution in pending.executions}
            # With the last one in it, the answer is older than its end, or the device hangs.
            if attempts and self._last not in attempts:
                await self._work()

    async def poll(self, seconds: float) -> None:
        """Ask for work every so often, not all devices at once."""
        await asyncio.sleep(random.uniform(0, seconds))  # noqa: S311 - only spreads
        while True:
            await self._work()
            await asyncio.sleep(seconds)

    async def _work(self) -> None:
        while execution := await self._calls.start_next():
            attempt = _attempt(execution)
            if attempt == self._last:
                return  # It hangs in this one until the server gives it up.
            self._last = attempt
            self._number += 1
            self._totals.started += 1
            plan = self._behaviour.plan(self._device_id, self._number)
            if plan.ending is None:
                self._totals.silent += 1
                return
            self._totals.at_work += 1
            try:
                await self._carry_out(execution, plan)
            except Gone:
                self._totals.gone += 1
            finally:
                self._totals.at_work -= 1

    async def _carry_out(self, execution: pb.DeviceExecution, plan: Plan) -> None:
        steps = self._behaviour.progress + 1
        if plan.ending != "REJECTED":
            for step in range(1, steps):
                await asyncio.sleep(plan.seconds / steps)
                await self._report(execution, JobExecution.IN_PROGRESS, percent=100 * step // steps)
            await asyncio.sleep(plan.seconds / steps)
        match plan.ending:
            case "SUCCEEDED":
                await self._report(execution, JobExecution.SUCCEEDED, percent=100)
                self._totals.succeeded += 1
            case "FAILED":
                await self._report(execution, JobExecution.FAILED, reason=plan.reason)
                self._totals.failed += 1
            case "REJECTED":
                await self._report(execution, JobExecution.REJECTED, reason=plan.reason)
                self._totals.rejected += 1

    async def _report(
        self, execution: pb.DeviceExecution, status: JobExecution.Status.ValueType, **details: Any
    ) -> None:
        # With the attempt's number, a report that is sent again can't hit a later attempt.
        update = pb.UpdateExecutionRequest(
            job_id=execution.job_id, status=status, execution_number=execution.execution_number
        )
        update.status_details.update(details)
        await self._persistence.call(
            lambda: self._report_once(self._device_id, update), or_gone=True
        )


def _attempt(execution: pb.DeviceExecution) -> tuple[str, int]:
    return execution.job_id, execution.execution_number
