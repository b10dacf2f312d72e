"""The memory of the gateway stays bounded while hostile clients send and do not read."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import httpx
import pytest

from tests.gateway.support import Gateway, RestClient, running_gateway
from tests.support.database import Database
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


async def connect(
    gateway: Gateway, stack: AsyncExitStack, limit: int = 1024
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Open a connection that is closed with the stack. It buffers a `limit` of bytes."""
    url = httpx.URL(gateway.url)
    reader, writer = await asyncio.open_connection(url.host, url.port, limit=limit)
    stack.callback(writer.close)
    return reader, writer


def post(length: int, *fields: str) -> bytes:
    """The head of a CreateJob with a body of this length."""
    head = ["POST /customer/jobs HTTP/1.1", "Host: localhost", f"Content-Length: {length}", *fields]
    return ("\r\n".join(head) + "\r\n\r\n").encode()


async def status_of_response(reader: asyncio.StreamReader) -> int:
    """Read the status line of a response."""
    async with asyncio.timeout(TIMEOUT):
        return int((await reader.readline()).split()[1])


async def test_memory_is_bounded_when_large_bodies_have_a_junk_token(gateway: Gateway) -> None:
    async with AsyncExitStack() as stack:
        connections = [await connect(gateway, stack) for _ in range(200)]
        for _, writer in connections:
            writer.write(post(len(BODY), JUNK_TOKEN) + BODY)
        statuses = {await status_of_response(reader) for reader, _ in connections}

    assert statuses == {401}
    assert peak_memory(gateway) < MAX_MEMORY / 2


async def test_memory_is_bounded_when_bodies_lack_their_last_byte(
    gateway: Gateway, tenant: str
) -> None:
    """Bodies above the budget wait or fail; small requests of another tenant do not."""
    async with AsyncExitStack() as stack:
        connections = [await connect(gateway, stack) for _ in range(500)]
        for _, writer in connections:
            writer.write(post(len(BODY), f"X-Tenant-Id: {tenant}") + BODY[:-1])
        responses = [asyncio.ensure_future(status_of_response(reader)) for reader, _ in connections]
        for response in responses:
            stack.callback(response.cancel)
        (first, *_), _ = await asyncio.wait(responses, return_when=asyncio.FIRST_COMPLETED)
        assert first.result() == 429

        async with httpx.AsyncClient(base_url=gateway.url, timeout=TIMEOUT) as http:
            created = await RestClient(http, f"{tenant}-other").create(target_all=True)
    assert created.json()["reason"] == "TENANT_EMPTY"
    assert peak_memory(gateway) < MAX_MEMORY


async def test_memory_is_bounded_when_large_responses_are_not_read(
    gateway: Gateway, database: Database, tenant: str
) -> None:
    await database.add_devices(tenant, [f"device-{n:04}-{'x' * 200}" for n in range(5000)])
    async with (
        httpx.AsyncClient(base_url=gateway.url, timeout=TIMEOUT) as http,
        AsyncExitStack() as stack,
    ):
        rest = RestClient(http, tenant)
        job = (await rest.create(target_all=True)).json()["job_id"]
        path = f"/customer/jobs/{job}?executions_limit=5000"
        request = f"GET {path} HTTP/1.1\r\nHost: localhost\r\nX-Tenant-Id: {tenant}\r\n\r\n"
        connections = [await connect(gateway, stack) for _ in range(100)]
        for _, writer in connections:
            writer.write(request.encode())
        statuses = [await status_of_response(reader) for reader, _ in connections]

        assert statuses.count(200) > 5
        assert set(statuses) <= {200, 429}
        response = await http.get("/customer/jobs", headers={"X-Tenant-Id": f"{tenant}-other"})
    assert response.status_code == 200
    assert peak_memory(gateway) < MAX_MEMORY
