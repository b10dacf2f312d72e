"""Calls of either protocol, as bytes: a client that parses answers would be measured, too."""

import asyncio
import http.client
import json
import time
from dataclasses import dataclass, field
from typing import Any

import grpc
from google.protobuf.message import Message

TENANT = "bench"

_JOBS = "fleet.jobs.v1.JobService"
DEVICES = "fleet.jobs.v1.DeviceJobService"


class Void(Exception):
    """A measurement that does not count: something was not answered as it has to be."""


@dataclass(frozen=True)
class Answer:
    """What came back, and how long that took."""

    seconds: float
    body: bytes


@dataclass(frozen=True)
class Call:
    """A request that can be made once, or by h2load as often as need be."""

    address: str
    path: str
    headers: dict[str, str]
    body: bytes | None

    @property
    def url(self) -> str:
        """Where it goes."""
        return f"http://{self.address}{self.path}"

    @property
    def is_http1(self) -> bool:
        """Whether it is plain HTTP/1.1, not gRPC."""
        return True

    async def once(self) -> Answer:
        """Make it on a connection of its own. Raises Void if it fails."""
        return await asyncio.to_thread(self._once)

    def _once(self) -> Answer:
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
            raise Void(f"{method} {self.path} answered {response.status}: {body[:200]!r}")
        return Answer(seconds, body)


@dataclass(frozen=True)
class GrpcCall(Call):
    """A call of gRPC, unary when it is made once; `body` has all of its messages framed."""

    message: bytes = field(default=b"")

    @property
    def is_http1(self) -> bool:
        return False

    async def once(self) -> Answer:
        options = (("grpc.use_local_subchannel_pool", 1),)
        async with grpc.aio.insecure_channel(self.address, options=options) as channel:
            await channel.channel_ready()
            metadata = [(k, v) for k, v in self.headers.items() if k.startswith("x-")]
            started = time.perf_counter()
            try:
                body: Any = await channel.unary_unary(self.path)(self.message, metadata=metadata)
            except grpc.aio.AioRpcError as e:
                raise Void(f"{self.path} answered {e.code().name}: {e.details()}") from None
            return Answer(time.perf_counter() - started, body)


def rpc(
    address: str,
    method: str,
    *requests: Message,
    tenant: str = TENANT,
    device: str = "",
    service: str = _JOBS,
) -> Call:
    """A call of this service; with several requests a stream of them, for h2load only."""
    messages = [request.SerializeToString() for request in requests]
    headers = {"content-type": "application/grpc", "te": "trailers", "x-tenant-id": tenant}
    if device:
        headers["x-device-id"] = device
    framed = b"".join(b"\0" + len(each).to_bytes(4, "big") + each for each in messages)
    return GrpcCall(address, f"/{service}/{method}", headers, framed, messages[0])


def rest(
    address: str, path: str = "", body: dict[str, object] | None = None, *, tenant: str = TENANT
) -> Call:
    """A call of the document's design: POST with a body, else GET."""
    headers = {"x-tenant-id": tenant}
    if body is not None:
        headers["content-type"] = "application/json"
    encoded = None if body is None else json.dumps(body).encode()
    return Call(address, f"/customer/jobs{path}", headers, encoded)


def rest_delete(address: str, job_id: str, *, tenant: str) -> Call:
    """The document's cancel."""
    return Call(
        address, f"/customer/jobs/{job_id}", {"x-tenant-id": tenant, ":method": "DELETE"}, None
    )
