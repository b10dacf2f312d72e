"""Calls of a server by their requests: the name of a request's type names its method."""

import time
from collections import defaultdict
from typing import Any

import grpc
from fleet.jobs.v1 import device_jobs_pb2_grpc, events_pb2_grpc, fleet_pb2_grpc, jobs_pb2_grpc

from jobs_grpc.client.errors import from_rpc_error
from tests.harness.history import History

_STUBS = (
    jobs_pb2_grpc.JobServiceStub,
    device_jobs_pb2_grpc.DeviceJobServiceStub,
    fleet_pb2_grpc.FleetServiceStub,
    events_pb2_grpc.EventServiceStub,
)

END_OF_CONNECTION = "max connection age"
"""gRPC's text when the server closes a connection by its age, after which clients connect again."""


class Calls:
    """Calls a server over a channel, and keeps the latencies of the calls that succeed."""

    def __init__(self, channel: grpc.aio.Channel, history: History | None = None) -> None:
        self.channel = channel
        self._history = history
        self._stubs: list[Any] = [stub(channel) for stub in _STUBS]
        self._latencies: dict[str, list[float]] = defaultdict(list)

    async def call(
        self, request: Any, tenant: str, *, user: str = "", device: str = "", deadline: float = 60.0
    ) -> Any:
        """Make a unary call. Raises JobsError, with gRPC's error as its cause."""
        method = method_of(request)
        recorded = self._history and self._history.begin(request, tenant, device)
        started = time.perf_counter()
        try:
            response = await self.method(method)(
                request, metadata=metadata(tenant, user, device), timeout=deadline
            )
        except grpc.aio.AioRpcError as e:
            error = from_rpc_error(e)
            if recorded:
                recorded.fail(error)
            raise error from e
        if recorded:
            recorded.answer(response)
        self.add_latency(method, time.perf_counter() - started)
        return response

    def stream(self, request: Any, tenant: str, *, device: str = "") -> Any:
        return self.method(method_of(request))(request, metadata=metadata(tenant, device=device))

    def method(self, name: str) -> Any:
        return next(getattr(stub, name) for stub in self._stubs if hasattr(stub, name))

    def add_latency(self, method: str, seconds: float) -> None:
        self._latencies[method].append(seconds)

    def take_latencies(self) -> dict[str, list[float]]:
        """Return the seconds that the calls took, by method, and forget them."""
        taken, self._latencies = self._latencies, defaultdict(list)
        return taken


def metadata(tenant: str, user: str = "", device: str = "") -> list[tuple[str, str]]:
    pairs = (("x-tenant-id", tenant), ("x-user-id", user), ("x-device-id", device))
    return [(key, value) for key, value in pairs if value]


def method_of(request: Any) -> str:
    return type(request).__name__.removesuffix("Request")
