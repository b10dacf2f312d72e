"""The calls of the benchmark: each is timed, and those that change a job are recorded."""

import asyncio
import time
from collections import defaultdict
from datetime import UTC, datetime, timedelta
from typing import Any

import grpc
from fleet.jobs.v1 import device_jobs_pb2_grpc, events_pb2_grpc, fleet_pb2_grpc, jobs_pb2_grpc

from bench.year.ledger import Ledger
from jobs_grpc.client.errors import from_rpc_error
from tests.harness.ledger import OperatorCall

_TIMEOUT = 60.0
_TRANSIENT = (grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.UNAVAILABLE)


class Clock:
    """The time of the database, which is `offset` later than the real one."""

    offset = timedelta()

    def now(self) -> datetime:
        """Return the time."""
        return datetime.now(UTC) + self.offset


class Calls:
    """Calls a server, and keeps the latencies of the calls since `take_latencies`."""

    def __init__(
        self,
        channel: grpc.aio.Channel,
        streams: grpc.aio.Channel,
        ledger: Ledger,
        clock: Clock,
    ) -> None:
        self.event_streams = events_pb2_grpc.EventServiceStub(streams)
        self.devices = device_jobs_pb2_grpc.DeviceJobServiceStub(channel)
        self.ledger = ledger
        self.clock = clock
        self._services: tuple[Any, ...] = (
            jobs_pb2_grpc.JobServiceStub(channel),
            fleet_pb2_grpc.FleetServiceStub(channel),
            events_pb2_grpc.EventServiceStub(channel),
        )
        self._latencies: dict[str, list[float]] = defaultdict(list)
        self._users = 0

    def take_latencies(self) -> dict[str, list[float]]:
        """Return the seconds that the calls took, by method, and forget them."""
        taken, self._latencies = self._latencies, defaultdict(list)
        return taken

    def add_latency(self, method: str, seconds: float) -> None:
        """Add the latency of a call."""
        self._latencies[method].append(seconds)

    async def read(self, tenant: str, request: Any) -> Any:
        """Make a call of an operator that changes no job. Return None if it fails."""
        return await self._call(tenant, request, "operator")

    async def change(self, tenant: str, request: Any) -> tuple[Any, OperatorCall, str]:
        """Make a call of an operator that changes a job, as a user of its own.

        Returns the response, or None if it fails; the call; and its user.
        """
        self._users += 1
        user = f"u{self._users}"
        method = _method(request)
        call = OperatorCall(tenant, getattr(request, "job_id", ""), method, self.clock.now())
        response = await self._call(tenant, request, user)
        call.ended_at, call.accepted = self.clock.now(), response is not None
        if response is not None:
            self.ledger.done[method] += 1
        return response, call, user

    async def device(self, tenant: str, device_id: str, request: Any) -> tuple[Any, str]:
        """Make a call of a device. Returns the response, or None and the reason."""
        method = _method(request)
        metadata = (("x-tenant-id", tenant), ("x-device-id", device_id))
        call = getattr(self.devices, method)
        started = time.perf_counter()
        try:
            response = await call(request, metadata=metadata, timeout=_TIMEOUT)
        except grpc.aio.AioRpcError as e:
            error = from_rpc_error(e)
            return None, error.reason or error.code.name
        self._latencies[method].append(time.perf_counter() - started)
        return response, ""

    async def _call(self, tenant: str, request: Any, user: str) -> Any:
        method = _method(request)
        call = next(getattr(s, method) for s in self._services if hasattr(s, method))
        metadata = (("x-tenant-id", tenant), ("x-user-id", user))
        while True:
            started = time.perf_counter()
            try:
                response = await call(request, metadata=metadata, timeout=_TIMEOUT)
            except grpc.aio.AioRpcError as e:
                error = from_rpc_error(e)
                if error.code in _TRANSIENT and error.retry_after is not None:
                    self.ledger.done[f"{method} repeated after {error.reason}"] += 1
                    await asyncio.sleep(error.retry_after)
                    continue
                kind = f"{method} fails with {error.reason or error.code.name}"
                self.ledger.problem(kind, f"{tenant} {request}: {error.message}")
                return None
            self._latencies[method].append(time.perf_counter() - started)
            return response


def _method(request: Any) -> str:
    return type(request).__name__.removesuffix("Request")
