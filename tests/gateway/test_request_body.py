"""Request bodies that the gateway or the server rejects, except those of transcripts/bodies.txt."""

import asyncio
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.gateway.support import RestClient, assert_error, running_gateway
from tests.support.server import Server
from tests.support.waiting import TIMEOUT

INVALID_ARGUMENT = (400, "INVALID_ARGUMENT")
JOBS = "/customer/jobs"


@pytest.mark.parametrize(
    ("value", "text"),
    [(b'"\xff"', "invalid UTF-8"), (b'"' + b"x" * 100_000 + b'"', "unexpected token")],
)
async def test_body_is_rejected_when_a_value_is_not_utf8_or_long(
    rest: RestClient, value: bytes, text: str
) -> None:
    response = await rest.send("POST", JOBS, b'{"document_params": %s}' % value)

    error = assert_error(response, *INVALID_ARGUMENT, "INVALID_FIELD")
    assert error["detail"].startswith("document_params: ")
    assert text in error["detail"]
    assert "proto:" not in error["detail"]
    assert len(error["detail"]) < 300


async def test_body_is_rejected_when_it_arrives_too_slowly(
    gateway_binary: Path, server: Server, rest: RestClient
) -> None:
    fields = f"Host: localhost\r\nX-Tenant-Id: {rest.tenant}\r\nContent-Length: 9"
    head = f"POST {JOBS} HTTP/1.1\r\n{fields}"
    async with running_gateway(gateway_binary, server.address, REQUEST_TIMEOUT="1") as gateway:
        url = httpx.URL(gateway.url)
        reader, writer = await asyncio.open_connection(url.host, url.port)
        writer.write(f"{head}\r\n\r\n{{".encode())
        async with asyncio.timeout(TIMEOUT):
            response = (await reader.read()).decode()
        writer.close()
    assert response.startswith("HTTP/1.1 408 ")
    assert '"reason":"BODY_TOO_SLOW"' in response


@pytest.mark.parametrize("chunked", [False, True])
async def test_body_is_rejected_when_over_the_limit_of_the_gateway(
    rest: RestClient, chunked: bool
) -> None:
    async def chunks() -> Any:
        for _ in range(5):
            yield b" " * 300_000

    content = chunks() if chunked else b" " * 1_500_000
    headers = [("Content-Type", "application/json")]

    response = await rest.send("POST", JOBS, headers=headers, content=content)

    detail = "The body is too large; the limit is 262144 bytes"
    assert_error(response, 413, "INVALID_ARGUMENT", "BODY_TOO_LARGE", detail)


async def test_body_is_rejected_when_its_protobuf_exceeds_the_limit_of_the_server(
    rest: RestClient,
) -> None:
    """35,000 numbers are 70 kB of JSON and over 256 KiB of protobuf."""
    body = b'{"document_params": {"a": [%s1]}}' % (b"1," * 35_000)
    response = await rest.send("POST", JOBS, body)
    assert_error(response, 413, "RESOURCE_EXHAUSTED", "LIMIT_EXCEEDED")


@pytest.mark.parametrize("size", [20_000, 200_000])
async def test_create_succeeds_when_the_body_is_large_and_the_document_is_not(
    rest: RestClient, size: int
) -> None:
    """The gateway asks the server who calls before it reads and decodes such a body."""
    body = b'{"document_type": "a", "target_device_id": "none", "document_params": {"a": [%s1]}%s}'

    response = await rest.send("POST", JOBS, body % (b"1," * 10_000, b" " * (size - 20_000)))

    assert_error(response, 404, "NOT_FOUND", "DEVICE_NOT_FOUND")


@pytest.mark.parametrize("depth", [100, 3_000, 20_000, 200_000])
async def test_create_is_rejected_when_the_document_is_nested_too_deeply(
    rest: RestClient, depth: int
) -> None:
    nested = b'{"document_type": "a", "target_all": true, "document_params": %s}' % (
        b'{"a":' * depth + b"1" + b"}" * depth
    )

    response = await rest.send("POST", JOBS, nested)

    assert response.status_code == (400 if depth < 40_000 else 413), response.text
