"""The memory of the gateway stays bounded while hostile clients send and do not read."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from fleet.jobs.v1.jobs_pb2 import GetCallerResponse, GetJobResponse, Job, JobExecution

from tests.gateway.support import Gateway, RestClient, running_gateway, send_raw, status_of
from tests.support.server import Server
from tests.support.waiting import TIMEOUT

MIB = 1 << 20
MAX_MEMORY = 512 * MIB

# The largest body that the gateway reads. Decoded, it takes 12 MiB.
BODY = b'{"document_params": {"a": [%s1]}}' % (b"1," * 131_000)

# The server runs with metadata: it rejects every call with a token.
JUNK_TOKEN = "Authorization: Bearer junk"


@pytest.fixture
async def gateway(gateway_binary: Path, server: Server) -> AsyncIterator[Gateway]:
    """A gateway whose memory has not been used yet."""
    async with running_gateway(gateway_binary, server.address) as gateway:
        yield gateway


def peak_memory(gateway: Gateway) -> int:
    """The maximum of the resident memory of the process so far, in bytes."""
    status = Path(f"/proc/{gateway.process.pid}/status")
    if not status.exists():
        pytest.skip("needs Linux")
    (line,) = [line for line in status.read_text().splitlines() if line.startswith("VmHWM:")]
    return int(line.split()[1]) * 1024


def post(length: int, *fields: str) -> bytes:
    body = ("Content-Type: application/json", f"Content-Length: {length}")
    head = ["POST /customer/jobs HTTP/1.1", "Host: localhost", *body, *fields]
    return ("\r\n".join(head) + "\r\n\r\n").encode()


async def test_memory_is_bounded_when_large_bodies_have_a_junk_token(gateway: Gateway) -> None:
    async with AsyncExitStack() as stack:
        request = post(len(BODY), JUNK_TOKEN) + BODY
        readers = [await send_raw(gateway, stack, request, 1024) for _ in range(200)]
        statuses = {await status_of(reader) for reader in readers}

    assert statuses == {401}
    assert peak_memory(gateway) < MAX_MEMORY / 2


async def test_memory_is_bounded_when_bodies_lack_their_last_byte(
    gateway: Gateway, tenant: str
) -> None:
    """Bodies above the memory limit wait or fail; small requests of another tenant do not."""
    async with AsyncExitStack() as stack:
        request = post(len(BODY), f"X-Tenant-Id: {tenant}") + BODY[:-1]
        readers = [await send_raw(gateway, stack, request, 1024) for _ in range(500)]
        responses = [asyncio.ensure_future(status_of(reader)) for reader in readers]
        for response in responses:
            stack.callback(response.cancel)
        (first, *_), _ = await asyncio.wait(responses, return_when=asyncio.FIRST_COMPLETED)
        assert first.result() == 429

        async with httpx.AsyncClient(base_url=gateway.url, timeout=TIMEOUT) as http:
            created = await RestClient(http, f"{tenant}-other").create(target_all=True)
    assert created.json()["reason"] == "TENANT_EMPTY"
    assert peak_memory(gateway) < MAX_MEMORY


@asynccontextmanager
async def serving_large_jobs() -> AsyncIterator[str]:
    """Run a gRPC server whose GetJob returns almost 4 MiB, and return its address."""
    executions = [JobExecution(device_id=f"device-{n:0128}") for n in range(29_000)]
    response = GetJobResponse(job=Job(executions=executions)).SerializeToString()
    assert 3 * MIB < len(response) < 4 * MIB

    async def get_job(request: bytes, context: object) -> bytes:
        return response

    async def get_caller(request: bytes, context: object) -> bytes:
        return GetCallerResponse(tenant_id="acme").SerializeToString()

    handlers: dict[str, Any] = {
        "GetJob": grpc.unary_unary_rpc_method_handler(get_job),
        "GetCaller": grpc.unary_unary_rpc_method_handler(get_caller),
    }
    server = grpc.aio.server()
    server.add_generic_rpc_handlers(
        [grpc.method_handlers_generic_handler("fleet.jobs.v1.JobService", handlers)]
    )
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(None)


async def test_memory_is_bounded_when_large_responses_are_not_read(gateway_binary: Path) -> None:
    request = b"GET /customer/jobs/a HTTP/1.1\r\nHost: localhost\r\nX-Tenant-Id: acme\r\n\r\n"
    async with (
        serving_large_jobs() as upstream,
        running_gateway(gateway_binary, upstream) as gateway,
        AsyncExitStack() as stack,
    ):
        readers = [await send_raw(gateway, stack, request, 1024) for _ in range(100)]
        statuses = [await status_of(reader) for reader in readers]

        assert set(statuses) == {200, 429}
        assert peak_memory(gateway) < MAX_MEMORY
