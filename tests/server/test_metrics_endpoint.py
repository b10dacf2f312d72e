"""The HTTP endpoint of the metrics bounds connections, time, sizes and work."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, suppress

import pytest
from prometheus_client.core import GaugeMetricFamily, Metric

from jobs_grpc.server import metrics_endpoint
from jobs_grpc.server.metrics_endpoint import MAX_CONNECTIONS, serving_metrics
from tests.support.metrics import parse, scrape
from tests.support.waiting import TIMEOUT, wait_until


class Source:
    """Counts how often it is collected, and can wait before it responds."""

    def __init__(self) -> None:
        self.collections = 0
        self.collecting = asyncio.Event()
        self.may_respond = asyncio.Event()
        self.may_respond.set()

    async def collect(self) -> Iterable[Metric]:
        self.collections += 1
        self.collecting.set()
        await self.may_respond.wait()
        return [GaugeMetricFamily("collections", "Collections.", value=self.collections)]


@asynccontextmanager
async def endpoint(max_age: float = 0.0) -> AsyncIterator[tuple[Source, str]]:
    """Serve a new source on a free port."""
    source = Source()
    async with serving_metrics("127.0.0.1:0", source.collect, max_age=max_age) as address:
        yield source, address


async def connect(address: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    host, _, port = address.rpartition(":")
    return await asyncio.open_connection(host, int(port))


async def exchange(address: str, request: bytes) -> bytes:
    """Send a request; return everything that the server sends until it closes."""
    reader, writer = await connect(address)
    async with asyncio.timeout(TIMEOUT):
        writer.write(request)
        response = await reader.read()
    writer.close()
    return response


@pytest.mark.parametrize(
    ("request_line", "status"),
    [
        ("GET /metrics HTTP/1.1", "200 OK"),
        ("GET /metrics?name=x HTTP/1.0", "200 OK"),
        ("GET / HTTP/1.1", "404 Not Found"),
        ("GET /metrics/x HTTP/1.1", "404 Not Found"),
        ("POST /metrics HTTP/1.1", "405 Method Not Allowed"),
        ("", "404 Not Found"),
        ("\x00\xff", "404 Not Found"),
    ],
)
async def test_endpoint_responds_to_each_request_line(request_line: str, status: str) -> None:
    async with endpoint() as (_, address):
        response = await exchange(address, f"{request_line}\r\nHost: x\r\n\r\n".encode("latin-1"))

    head, _, body = response.decode().partition("\r\n\r\n")
    assert head.startswith(f"HTTP/1.1 {status}\r\n")
    assert f"Content-Length: {len(body)}\r\n" in head
    assert "Connection: close" in head
    if status == "200 OK":
        assert parse(body).value("collections") == 1


async def test_head_request_gets_no_body() -> None:
    async with endpoint() as (_, address):
        response = await exchange(address, b"HEAD /metrics HTTP/1.1\r\n\r\n")

    assert response.startswith(b"HTTP/1.1 200 OK\r\n")
    assert response.endswith(b"\r\n\r\n")


async def test_endpoint_ends_when_its_block_ends_although_connections_are_open() -> None:
    async with asyncio.timeout(TIMEOUT):
        async with endpoint() as (source, address):
            source.may_respond.clear()
            silent, silent_writer = await connect(address)
            waiting, writer = await connect(address)
            writer.write(b"GET /metrics HTTP/1.1\r\n\r\n")
            await source.collecting.wait()
        assert await silent.read() == await waiting.read() == b""
        silent_writer.close()
        writer.close()


async def test_connection_is_closed_when_too_many_are_open() -> None:
    async with endpoint() as (_, address):
        opened = [await connect(address) for _ in range(MAX_CONNECTIONS)]
        with suppress(ConnectionError):  # Also closed.
            assert await exchange(address, b"GET /metrics HTTP/1.1\r\n\r\n") == b""

        for _, writer in opened:
            writer.close()

        async def is_served() -> bool:
            try:
                return bool(await exchange(address, b"GET /metrics HTTP/1.1\r\n\r\n"))
            except ConnectionError:
                return False

        await wait_until(is_served)


async def test_connection_is_closed_when_its_request_does_not_arrive_in_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(metrics_endpoint, "_REQUEST_TIMEOUT", 0.05)
    async with endpoint() as (source, address):
        assert await exchange(address, b"GET /metrics HTTP/1.1\r\n") == b""
        assert source.collections == 0


async def test_connection_is_closed_when_its_response_is_not_read_in_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(metrics_endpoint, "_RESPONSE_TIMEOUT", 0.05)
    monkeypatch.setattr(metrics_endpoint, "generate_latest", lambda _: bytes(64 << 20))
    async with endpoint() as (source, address):
        reader, writer = await connect(address)
        writer.write(b"GET /metrics HTTP/1.1\r\n\r\n")
        async with asyncio.timeout(TIMEOUT):
            await source.collecting.wait()
            # The next scrape is served while the first client still reads nothing.
            assert await exchange(address, b"HEAD /metrics HTTP/1.1\r\n\r\n")
            received = 0
            try:
                while chunk := await reader.read(1 << 20):
                    received += len(chunk)
                    await asyncio.sleep(0.01)
            except ConnectionError:
                pass
        assert received < 64 << 20
        writer.close()


async def test_large_request_is_rejected() -> None:
    async with endpoint() as (source, address):
        try:
            response = await exchange(address, b"GET /metrics HTTP/1.1\r\nX: " + b"x" * 100_000)
        except ConnectionError:
            response = b""
        assert response.startswith(b"HTTP/1.1 431 ") or not response
        assert source.collections == 0


async def test_many_requests_cause_one_collection_per_interval() -> None:
    async with endpoint(max_age=60.0) as (source, address):
        for _ in range(3):
            reads = await asyncio.gather(*(scrape(address) for _ in range(MAX_CONNECTIONS // 2)))
            assert {read.value("collections") for read in reads} == {1}

        assert source.collections == 1
