"""Calls of both services as bytes: the client does not parse responses, to keep its cost low."""

import asyncio
import http.client
import json
import time
from dataclasses import dataclass, field
from typing import Any

import grpc
from google.protobuf.message import Message

from bench.process import OWN_CONNECTIONS
from bench.run import InvalidRun

TENANT = "bench"

JOB_SERVICE = "fleet.jobs.v1.JobService"
DEVICE_JOB_SERVICE = "fleet.jobs.v1.DeviceJobService"


@dataclass(frozen=True)
class Response:
    """The body of a response and the time until it arrived."""

    seconds: float
    body: bytes


@dataclass(frozen=True)
class Call:
    """An HTTP/1.1 request, sent once by `send` or many times by h2load."""

    address: str
    path: str
    headers: dict[str, str]
    body: bytes | None

    @property
    def url(self) -> str:
        """The URL of the request."""
        return f"http://{self.address}{self.path}"

    @property
    def is_http1(self) -> bool:
        """Whether the request uses HTTP/1.1; gRPC uses HTTP/2."""
        return True

    async def send(self) -> Response:
        """Send the request on its own connection. Raises InvalidRun if it fails."""
        return await asyncio.to_thread(self._send)

    def _send(self) -> Response:
        connection = http.client.HTTPConnection(self.address)
        connection.connect()
        started = time.perf_counter()
        method = self.headers.get(":method", "POST" if self.body is not None else "GET")
        headers = {k: v for k, v in self.headers.items() if k != ":method"}
        connection.request(method, self.path, self.body, headers)
        response = connection.getresponse()
        body = response.read()
        seconds = time.perf_counter() - started
        connection.close()
        if response.status >= 300:
            raise InvalidRun(f"{method} {self.path} returned {response.status}: {body[:200]!r}")
        return Response(seconds, body)


@dataclass(frozen=True)
class GrpcCall(Call):
    """A gRPC call. `send` sends `message` as a unary call; h2load sends the framed `body`."""

    message: bytes = field(default=b"")

    @property
    def is_http1(self) -> bool:
        return False

    async def send(self) -> Response:
        async with grpc.aio.insecure_channel(self.address, OWN_CONNECTIONS) as channel:
            await channel.channel_ready()
            metadata = [(k, v) for k, v in self.headers.items() if k.startswith("x-")]
            started = time.perf_counter()
            try:
                call: Any = channel.unary_unary(self.path)
                body = await call(self.message, metadata=metadata)
            except grpc.aio.AioRpcError as e:
                raise InvalidRun(f"{self.path} returned {e.code().name}: {e.details()}") from None
            return Response(time.perf_counter() - started, body)


def grpc_call(
    address: str,
    method: str,
    *requests: Message,
    tenant: str = TENANT,
    device: str = "",
    service: str = JOB_SERVICE,
) -> Call:
    """Return a call of this service. Several requests form a stream, which only h2load can send."""
    messages = [request.SerializeToString() for request in requests]
    headers = {"content-type": "application/grpc", "te": "trailers", "x-tenant-id": tenant}
    if device:
        headers["x-device-id"] = device
    framed = b"".join(b"\0" + len(message).to_bytes(4, "big") + message for message in messages)
    return GrpcCall(address, f"/{service}/{method}", headers, framed, messages[0])


def rest_call(
    address: str,
    path: str = "",
    body: dict[str, object] | None = None,
    *,
    tenant: str = TENANT,
    method: str = "",
) -> Call:
    """Return a call of the FastAPI service: by default, POST with a body, GET without."""
    headers = {"x-tenant-id": tenant} | ({":method": method} if method else {})
    if body is not None:
        headers["content-type"] = "application/json"
    encoded = None if body is None else json.dumps(body).encode()
    return Call(address, f"/customer/jobs{path}", headers, encoded)
