"""Deliveries to a real HTTPS endpoint: results, limits, and addresses that are not allowed."""

import asyncio
import ipaddress
import socket
import ssl
import struct
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any, cast

import pytest
from aiohttp.client_proto import ResponseHandler

from jobs_grpc.config.settings import EventsConfig
from jobs_grpc.webhooks import delivery
from jobs_grpc.webhooks.addresses import AddrInfo, SocketFactory
from jobs_grpc.webhooks.delivery import HttpSender, http_sender, retry_after_seconds
from jobs_grpc.webhooks.sender import DeliveryResult
from tests.support.endpoints import (
    OK,
    Endpoint,
    NameServer,
    hang,
    response,
    running_endpoint,
    running_name_server,
    server_context,
    serving,
)
from tests.support.identities import Authority
from tests.support.waiting import wait_until_true

HEADERS = {"webhook-id": "evt_1"}


@asynccontextmanager
async def opened(
    *ports: int,
    networks: Sequence[str] = ("127.0.0.1/32",),
    allow_http: bool = False,
    max_connections: int = 64,
) -> AsyncIterator[HttpSender]:
    config = EventsConfig(
        webhook_allowed_networks=tuple(ipaddress.ip_network(network) for network in networks),
        webhook_allowed_ports=ports,
        webhook_allow_http=allow_http,
    )
    async with http_sender(config, max_connections=max_connections) as sender:
        yield sender


async def _send(endpoint: Endpoint, **options: Any) -> DeliveryResult:
    async with opened(endpoint.port, allow_http=True, **options) as sender:
        return await sender.send("acme", endpoint.url(), HEADERS, b'{"a":1}')


async def _outcome(endpoint: Endpoint) -> tuple[int, str | None]:
    result = await _send(endpoint)
    return result.status, result.error


async def _outcome_on(port: int, scheme: str = "http") -> tuple[int, str | None]:
    """Send to a port that accepts no or any connections."""
    return await _outcome(Endpoint(port, scheme))


async def test_post_has_known_headers(endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:1")
    result = await _send(endpoint)
    assert (result.status, result.error, result.retry_after) == (204, None, None)
    (request,) = endpoint.requests
    assert request.line == "POST /hook HTTP/1.1"
    assert request.body == b'{"a":1}'
    assert set(request.headers) == {
        *("host", "accept", "accept-encoding", "content-type", "content-length", "user-agent"),
        *("connection", "webhook-id"),
    }
    assert request.headers["content-type"] == "application/json"
    assert request.headers["user-agent"].startswith("jobs-grpc/")


STATUSES = {
    None: [200, 201, 204, 299],
    "REDIRECT": [300, 301, 304, 307],
    "HTTP_STATUS": [400, 404, 410, 429, 500, 599, 999],
}


@pytest.mark.parametrize(
    ("status", "error"), [(status, error) for error, of in STATUSES.items() for status in of]
)
async def test_delivery_result_depends_on_http_status(
    endpoint: Endpoint, status: int, error: str | None
) -> None:
    endpoint.answer(response(status))
    assert await _outcome(endpoint) == (status, error)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_redirect_is_not_followed(endpoint: Endpoint, status: int) -> None:
    async with running_endpoint(None) as internal:
        endpoint.answer(response(status, f"Location: {internal.url()}"))
        async with opened(endpoint.port, internal.port, allow_http=True) as sender:
            result = await sender.send("acme", endpoint.url(), HEADERS, b"{}")
        assert (result.status, result.error) == (status, "REDIRECT")
        assert internal.connections == 0


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        *(("0", 0), ("120", 120), ("86400", 86400), ("86401", 86400), ("9" * 5000, 86400)),
        *(("-5", None), ("1.5", None), ("soon", None), ("", None), ("²", None), ("1e3", None)),
        ("Wed, 99 Foo 2026 99:99:99 GMT", None),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 0),
        ("Wed, 21 Oct 2915 07:28:00 GMT", 86400),
    ],
)
def test_retry_after_is_seconds_or_a_date_up_to_a_day(header: str, seconds: float | None) -> None:
    assert retry_after_seconds(header) == seconds


def test_retry_after_is_relative_to_now() -> None:
    header = format_datetime(datetime.now(UTC) + timedelta(minutes=10), usegmt=True)
    seconds = retry_after_seconds(header)
    assert seconds is not None
    assert 590 <= seconds <= 600


async def test_retry_after_is_read_from_failures_only(endpoint: Endpoint) -> None:
    endpoint.answer(response(503, "Retry-After: 120"), response(200, "Retry-After: 120"))
    assert (await _send(endpoint)).retry_after == 120
    assert (await _send(endpoint)).retry_after is None


async def test_each_post_has_a_new_connection_and_no_cookies(endpoint: Endpoint) -> None:
    endpoint.answer(response(200, "Set-Cookie: a=b"))
    async with opened(endpoint.port) as sender:
        for _ in range(5):
            assert (await sender.send("acme", endpoint.url(), HEADERS, b"{}")).error is None
    assert endpoint.connections == 5
    assert not any("cookie" in request.headers for request in endpoint.requests)


async def test_post_is_not_repeated_when_the_connection_is_closed(endpoint: Endpoint) -> None:
    endpoint.answer(b"")
    assert await _outcome(endpoint) == (0, "CONNECTION_FAILED")
    assert len(endpoint.requests) == 1


@asynccontextmanager
async def _flood(first: bytes, again: bytes) -> AsyncIterator[tuple[int, asyncio.Event]]:
    """Run an endpoint that sends `first`, and then `again` until the connection is closed.

    Yields its port, and an event that is set then.
    """
    closed = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        try:
            writer.write(first)
            while True:
                writer.write(again)
                await writer.drain()
        except OSError:
            closed.set()

    async with serving(serve) as port:
        yield port, closed


@pytest.fixture
def parsed(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The responses that aiohttp has parsed."""
    responses = []
    feed_data = ResponseHandler.feed_data

    def record(self: ResponseHandler, data: Any, size: int = 0) -> None:
        responses.append(data)
        feed_data(self, data, size)

    monkeypatch.setattr(ResponseHandler, "feed_data", record)
    return responses


@pytest.mark.parametrize(
    "response_head",
    [
        b"HTTP/1.1 103 Early Hints\r\n\r\n",
        b"HTTP/1.1 100 a\r\n\r\n",
        b"HTTP/1.1 103 Early Hints\r\n" + b"X: " + b"x" * 8000 + b"\r\n\r\n",
    ],
)
async def test_informational_flood_is_a_failure(parsed: list[Any], response_head: bytes) -> None:
    async with _flood(b"", response_head * 1000) as (port, closed):
        assert await _outcome_on(port) == (0, "CONNECTION_FAILED")
        await closed.wait()
    assert len(parsed) <= 17


async def test_informational_responses_precede_the_response(endpoint: Endpoint) -> None:
    endpoint.answer(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" * 3 + OK)
    assert await _outcome(endpoint) == (204, None)


async def test_responses_after_the_first_are_not_parsed(parsed: list[Any]) -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
    async with _flood(head, head * 1000) as (port, closed):
        assert await _outcome_on(port) == (200, None)
        await closed.wait()
    assert len(parsed) == 1


async def test_socket_is_closed_when_the_body_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    created: list[socket.socket] = []

    class RecordingFactory(SocketFactory):
        def __call__(self, addr_info: AddrInfo) -> socket.socket:
            created.append(super().__call__(addr_info))
            created[-1].setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
            return created[-1]

    async def serve(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        cast("asyncio.Transport", writer.transport).pause_reading()
        writer.write(OK)
        await asyncio.Event().wait()

    monkeypatch.setattr(delivery, "SocketFactory", RecordingFactory)
    async with serving(serve) as port, opened(port, allow_http=True) as sender:
        result = await sender.send("acme", f"http://127.0.0.1:{port}/", HEADERS, b"x" * 1_000_000)
        assert (result.status, result.error) == (204, None)
        await wait_until_true(lambda: created[0].fileno() == -1)


async def test_body_of_response_is_not_read() -> None:
    written = 0
    closed = asyncio.Event()

    async def serve(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal written
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 10000000000\r\n\r\n")
        try:
            while True:
                writer.write(b"x" * 65536)
                await writer.drain()
                written += 65536
        except OSError:
            closed.set()

    async with serving(serve) as port:
        assert await _outcome_on(port) == (200, None)
        await closed.wait()
    # The buffers of the sockets.
    assert written < 20_000_000


@pytest.mark.parametrize(
    "head",
    [
        b"HTTP/1.1 200 OK\r\nX: " + b"x" * 100_000 + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"".join(b"X-%d: y\r\n" % n for n in range(1000)) + b"\r\n",
        b"HTTP/1.1 200 " + b"x" * 100_000 + b"\r\n\r\n",
        b"not HTTP\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n",
        b"\x00" * 100_000,
        b"HTTP/1.1 200 OK\r\n" + b"".join(b"X-%d: " % n + b"y" * 8000 + b"\r\n" for n in range(9)),
    ],
    ids=[
        *("long-header", "many-headers", "long-status", "no-http", "two-lengths", "zeros"),
        "many-long-headers",
    ],
)
async def test_malformed_or_large_response_is_a_failure(endpoint: Endpoint, head: bytes) -> None:
    endpoint.answer(head)
    assert await _outcome(endpoint) == (0, "CONNECTION_FAILED")


@pytest.mark.parametrize("part", [b"", b"H", b"HTTP/1.1 103 Early Hints\r\n\r\n"])
async def test_delivery_times_out(monkeypatch: pytest.MonkeyPatch, part: bytes) -> None:
    monkeypatch.setattr(delivery, "TIMEOUT_SECONDS", 0.3)

    async def serve(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            writer.write(part)
            await writer.drain()
            await asyncio.sleep(0.1 if part != b"H" else 60)

    async with serving(serve) as port:
        assert await _outcome_on(port) == (0, "TIMEOUT")


async def test_connection_that_is_refused_is_a_failure() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        outcome = await _outcome_on(unused.getsockname()[1], "https")
    assert outcome == (0, "CONNECTION_FAILED")


async def test_certificate_of_other_authority_is_rejected(endpoint: Endpoint, folder: Path) -> None:
    async with running_endpoint(server_context(Authority().server(), folder)) as other:
        assert (await _send(other)).error == "TLS_FAILED"
        assert other.requests == []


async def test_certificate_of_another_host_is_rejected(endpoint: Endpoint) -> None:
    async with opened(endpoint.port, networks=["127.0.0.0/8"]) as sender:
        result = await sender.send("acme", endpoint.url(host="127.0.0.2"), HEADERS, b"{}")
        assert result.error in ("TLS_FAILED", "CONNECTION_FAILED")
    assert endpoint.requests == []


async def test_expired_certificate_fails(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    authority = Authority(timedelta(hours=-2), timedelta(hours=-1))
    (folder / "ca.pem").write_bytes(authority.certificate)
    monkeypatch.setenv("SSL_CERT_FILE", str(folder / "ca.pem"))
    async with running_endpoint(server_context(authority.server(), folder)) as expired:
        assert (await _send(expired)).error == "TLS_FAILED"


async def test_endpoint_without_tls_fails() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(100)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await writer.drain()

    async with serving(serve) as port:
        assert await _outcome_on(port, "https") == (0, "TLS_FAILED")


@pytest.mark.parametrize(
    "url",
    [
        *("https://127.0.0.1/", "https://127.1/", "https://2130706433/", "https://017700000001/"),
        *("https://0x7f000001/", "https://0x7f.1/", "https://localhost/", "https://LOCALHOST./"),
        *("https://[::1]/", "https://[::ffff:127.0.0.1]/", "https://[::ffff:7f00:1]/"),
        *("https://[::127.0.0.1]/", "https://[64:ff9b::7f00:1]/", "https://[fe80::1%25lo]/"),
        *("https://[::]/", "https://0.0.0.0/", "https://0/"),
        "https://169.254.169.254/latest/meta-data/",
        *("https://１２７.０.０.１/", "https://①②⑦.0.0.1/", "https://127。0。0。1/"),
        *("http://1.1.1.1/", "https://user@1.1.1.1/", "https://user:password@1.1.1.1/"),
        *("ftp://1.1.1.1/", "unix:///var/run/docker.sock", "https:///", "//1.1.1.1/", "", "\0"),
    ],
)
async def test_url_of_forbidden_address_is_refused(url: str) -> None:
    async with opened(443, networks=[]) as sender:
        result = await sender.send("acme", url, HEADERS, b"{}")
    assert result.status == 0
    assert result.error in ("ADDRESS_NOT_ALLOWED", "HOST_NOT_FOUND")


async def test_port_that_is_not_allowed_is_refused(endpoint: Endpoint) -> None:
    async with opened(443) as sender:
        result = await sender.send("acme", endpoint.url(), HEADERS, b"{}")
    assert result.error == "ADDRESS_NOT_ALLOWED"
    assert endpoint.connections == 0


def _query(name: str, port: int) -> list[str]:
    """Ask the name server on a port for the addresses of a name."""
    labels = b"".join(bytes([len(label)]) + label.encode() for label in name.split("."))
    query = struct.pack("!HHHHHH", 7, 0x0100, 1, 0, 0, 0) + labels + b"\0" + b"\0\1\0\1"
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(10)
        client.sendto(query, ("127.0.0.1", port))
        answer = client.recv(512)
    (count,) = struct.unpack("!H", answer[6:8])
    records = answer[len(query) :]
    return [socket.inet_ntoa(records[16 * n + 12 : 16 * n + 16]) for n in range(count)]


def _resolve_with(port: int) -> Callable[..., list[Any]]:
    def getaddrinfo(host: str, service: int, **_: Any) -> list[Any]:
        addresses = _query(host, port)
        if not addresses:
            raise socket.gaierror(socket.EAI_NONAME, "not found")
        stream = socket.SOCK_STREAM
        return [(socket.AF_INET, stream, 6, "", (found, service)) for found in addresses]

    return getaddrinfo


@asynccontextmanager
async def _named(
    tls: tuple[ssl.SSLContext, Path], monkeypatch: pytest.MonkeyPatch, *answers: list[str]
) -> AsyncIterator[tuple[Endpoint, Endpoint, NameServer, HttpSender]]:
    """Run two endpoints, of which the sender may use the first, and a name server with answers."""
    context, authority = tls
    monkeypatch.setenv("SSL_CERT_FILE", str(authority))
    # 127.0.0.2 stands for a public address.
    async with (
        running_endpoint(context, "127.0.0.2") as public,
        running_endpoint(context, "127.0.0.1", public.port) as internal,
        running_name_server(*answers) as (name_server, port),
        opened(public.port, networks=["127.0.0.2/32"]) as sender,
    ):
        monkeypatch.setattr("jobs_grpc.webhooks.resolver.socket.getaddrinfo", _resolve_with(port))
        yield public, internal, name_server, sender


async def test_name_that_changes_to_a_forbidden_address_is_refused(
    endpoint_tls: tuple[ssl.SSLContext, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = (["127.0.0.2"], ["127.0.0.1"])
    async with _named(endpoint_tls, monkeypatch, *answers) as (public, internal, names, sender):
        public.answer(response(200, "Connection: close"))
        url = public.url(host="localhost")
        results = [await sender.send("acme", url, HEADERS, b"{}") for _ in range(3)]
    assert [result.error for result in results] == [None, *["ADDRESS_NOT_ALLOWED"] * 2]
    assert (len(public.requests), internal.connections, names.queries) == (1, 0, 3)


async def test_forbidden_addresses_of_a_name_are_skipped(
    endpoint_tls: tuple[ssl.SSLContext, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = ["127.0.0.1", "10.0.0.1", "127.0.0.2"]
    async with _named(endpoint_tls, monkeypatch, answer) as (public, internal, _, sender):
        result = await sender.send("acme", public.url(host="localhost"), HEADERS, b"{}")
    assert (result.status, result.error) == (204, None)
    assert internal.connections == 0


async def test_host_that_does_not_exist_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    async with running_name_server([]) as (_, port), opened(443) as sender:
        monkeypatch.setattr("jobs_grpc.webhooks.resolver.socket.getaddrinfo", _resolve_with(port))
        result = await sender.send("acme", "https://missing.example/", HEADERS, b"{}")
    assert (result.status, result.error) == (0, "HOST_NOT_FOUND")


async def test_name_that_dns_does_not_allow_is_a_failure() -> None:
    async with opened(443) as sender:
        result = await sender.send("acme", f"https://{'a' * 64}.example/", HEADERS, b"{}")
    assert (result.status, result.error) == (0, "HOST_NOT_FOUND")


async def test_hanging_lookups_of_a_tenant_do_not_block_another_tenant(
    endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    release = threading.Event()
    hanging: list[str] = []
    resolve = socket.getaddrinfo

    def getaddrinfo(host: str, *args: Any, **options: Any) -> list[Any]:
        if host == "localhost":
            return resolve(host, *args, **options)
        hanging.append(host)
        release.wait()
        raise socket.gaierror

    monkeypatch.setattr(delivery, "TIMEOUT_SECONDS", 0.2)
    monkeypatch.setattr("jobs_grpc.webhooks.resolver.socket.getaddrinfo", getaddrinfo)
    async with opened(endpoint.port, max_connections=4) as sender:
        results = await asyncio.gather(
            *(sender.send("acme", f"https://h{n}.example/", HEADERS, b"{}") for n in range(10))
        )
        monkeypatch.setattr(delivery, "TIMEOUT_SECONDS", 10)
        other = await sender.send("other", endpoint.url(host="localhost"), HEADERS, b"{}")
    assert {result.error for result in results} == {"TIMEOUT"}
    assert len(hanging) == 2
    assert other.status == 204
    release.set()
    await wait_until_true(
        lambda: all(thread.name != "webhook-resolver" for thread in threading.enumerate())
    )


async def test_delivery_fails_when_no_lookup_thread_can_start(
    endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Refused(threading.Thread):
        def start(self) -> None:
            raise RuntimeError("can't start new thread")

    url = endpoint.url(host="localhost")
    async with opened(endpoint.port, max_connections=1) as sender:
        with monkeypatch.context() as patched:
            patched.setattr("jobs_grpc.webhooks.resolver.threading.Thread", Refused)
            for _ in range(2):
                result = await sender.send("acme", url, HEADERS, b"{}")
                assert (result.status, result.error) == (0, "CONNECTION_FAILED")
        assert (await sender.send("acme", url, HEADERS, b"{}")).status == 204


async def test_canceled_delivery_closes_its_connection(endpoint: Endpoint) -> None:
    endpoint.respond = hang
    async with opened(endpoint.port) as sender:
        sending = asyncio.create_task(sender.send("acme", endpoint.url(), HEADERS, b"{}"))
        await endpoint.received(1)
        sending.cancel()
        with pytest.raises(asyncio.CancelledError):
            await sending
        endpoint.respond = None
        assert (await sender.send("acme", endpoint.url(), HEADERS, b"{}")).error is None
    assert endpoint.connections == 2
