"""Request bodies that the gateway or the server rejects, except those of transcripts/bodies.txt."""

import asyncio
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.gateway.support import RestClient, assert_error, running_gateway
from tests.support.database import Database
from tests.support.server import Server
from tests.support.waiting import TIMEOUT

INVALID_ARGUMENT = (400, "INVALID_ARGUMENT")
JOBS = "/customer/jobs"


@pytest.mark.parametrize(
    ("targets", "count"),
    [
        ({"target_device_id": "d00001", "target_group_id": None, "target_all": False}, 1),
        ({"target_device_id": "", "target_group_id": "north", "target_all": False}, 2),
        ({"target_device_id": "", "target_group_id": "", "target_all": True}, 3),
        ({"target_all": False, "target_selector": "group=north"}, 2),
        ({"target_device_id": "", "target_group_id": "", "target_all": False}, None),
        ({"target_group_id": "", "target_selector": ""}, None),
        ({"target_device_id": "d00001", "target_group_id": False}, None),
        ({"target_device_id": "d00001", "target_all": ""}, None),
    ],
)
async def test_targets_of_the_document_count_as_absent_without_a_value(
    rest: RestClient, database: Database, targets: dict[str, Any], count: int | None
) -> None:
    """As in clients that send all fields of their model. None: the targets are rejected."""
    await database.add_devices(rest.tenant, 2, group="north")
    await database.add_devices(rest.tenant, ["e"])

    created = await rest.create(**targets)
    preview = await rest.send("POST", "/customer/fleet:previewTarget", targets)

    if count is None:
        assert_error(created, *INVALID_ARGUMENT, "INVALID_FIELD")
        assert_error(preview, *INVALID_ARGUMENT, "INVALID_FIELD")
    else:
        assert (created.status_code, created.json()["execution_count"]) == (201, count)
        assert preview.json()["device_count"] == count


async def test_create_is_repeated_when_absent_targets_are_left_out(
    rest: RestClient, database: Database
) -> None:
    await database.add_devices(rest.tenant, 1)
    targets = {"target_device_id": "d00001", "target_group_id": "", "target_all": False}

    created = await rest.create(job_id="a", **targets)
    repeated = await rest.create(job_id="a", target_device_id="d00001")

    assert (created.status_code, repeated.status_code) == (201, 201), repeated.text
    assert created.json() == repeated.json()


async def test_create_accepts_exact_integers_and_other_numbers(
    rest: RestClient, database: Database
) -> None:
    await database.add_devices(rest.tenant, 1)
    numbers = b"9007199254740992, -9007199254740992, 1e300, 9007199254740993.5"

    body = b'{"document_type": "a", "target_all": true, "document_params": {"a": [%s]}}' % numbers
    response = await rest.send("POST", JOBS, body)

    assert response.status_code == 201, response.text


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
