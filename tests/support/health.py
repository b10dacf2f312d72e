"""The health of a running server."""

from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tests.support.waiting import TIMEOUT, wait_until


async def wait_until_healthy(channel: grpc.aio.Channel) -> None:
    """Return when the server reports SERVING."""
    await wait_until(lambda: is_healthy(channel))


async def is_healthy(channel: grpc.aio.Channel, service: str = "") -> bool:
    """Whether the server reports SERVING."""
    stub: Any = health_pb2_grpc.HealthStub(channel)
    request = health_pb2.HealthCheckRequest(service=service)
    response = await stub.Check(request, timeout=TIMEOUT, wait_for_ready=True)
    return bool(response.status == health_pb2.HealthCheckResponse.SERVING)


def watch_health(channel: grpc.aio.Channel, service: str = "") -> Any:
    """Open Health.Watch; each `read()` returns the next status."""
    stub: Any = health_pb2_grpc.HealthStub(channel)
    return stub.Watch(health_pb2.HealthCheckRequest(service=service), wait_for_ready=True)
