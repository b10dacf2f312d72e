"""HTTP endpoints on loopback that receive webhooks, and a name server."""

import asyncio
import json
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, cast

from tests.support.identities import Pair
from tests.support.waiting import wait_until_true

OK = b"HTTP/1.1 204 No Content\r\n\r\n"


@dataclass(frozen=True)
class Request:
    """A request that an endpoint has received."""

    line: str
    headers: dict[str, str]
    body: bytes

    @property
    def event(self) -> dict[str, Any]:
        event: dict[str, Any] = json.loads(self.body)
        return event

    @property
    def position(self) -> int:
        return int(self.event["data"]["position"])


Respond = Callable[[Request], Awaitable[bytes]]
"""Returns a response; empty: the connection is closed instead."""


@dataclass
class Endpoint:
    """An endpoint: stores requests and answers what `respond` returns."""

    port: int = 0
    scheme: str = "https"
    requests: list[Request] = field(default_factory=list)
    connections: int = 0
    respond: Respond | None = None

    def url(self, path: str = "/hook", host: str = "127.0.0.1") -> str:
        return f"{self.scheme}://{host}:{self.port}{path}"

    def answer(self, *responses: bytes) -> None:
        """Answer these, and then the last one again and again."""
        rest = list(responses)

        async def respond(_: Request) -> bytes:
            return rest.pop(0) if len(rest) > 1 else rest[0]

        self.respond = respond

    async def received(self, count: int) -> list[Request]:
        """Wait for a number of requests, and return all."""

        await wait_until_true(lambda: len(self.requests) >= count)
        return self.requests

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        while request := await _read_request(reader):
            self.requests.append(request)
            response = OK if self.respond is None else await self.respond(request)
            if not response:
                break
            writer.write(response)
            await writer.drain()


def response(status: int, *headers: str, body: bytes = b"") -> bytes:
    lines = [f"HTTP/1.1 {status} Status", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join([*lines, "", ""]).encode() + body


async def hang(_: Request) -> bytes:
    """Never respond."""
    await asyncio.Event().wait()
    return b""


@asynccontextmanager
async def running_endpoint(
    certificate: ssl.SSLContext | None, host: str = "127.0.0.1", port: int = 0
) -> AsyncIterator[Endpoint]:
    """Run an endpoint, by default on a free port; with a certificate, on HTTPS."""
    endpoint = Endpoint(scheme="https" if certificate else "http")
    async with serving(endpoint.serve, certificate, host, port) as endpoint.port:
        yield endpoint


@asynccontextmanager
async def serving(
    serve: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]],
    certificate: ssl.SSLContext | None = None,
    host: str = "127.0.0.1",
    port: int = 0,
) -> AsyncIterator[int]:
    """Serve connections; yields the port. At the end, they are closed."""
    tasks: set[asyncio.Task[None]] = set()

    async def run(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(_serve(reader, writer))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    async def _serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            with suppress(OSError, asyncio.IncompleteReadError):
                await serve(reader, writer)
        finally:
            writer.close()

    server = await asyncio.start_server(run, host, port, ssl=certificate, backlog=1024)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in list(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def server_context(pair: Pair, folder: Any, name: str = "endpoint") -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(*pair.write(folder, name))
    return context


async def _read_request(reader: asyncio.StreamReader) -> Request | None:
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        return None
    line, *lines = head.decode("latin-1").split("\r\n")
    pairs = (text.split(":", 1) for text in lines if text)
    headers = {name.strip().lower(): value.strip() for name, value in pairs}
    body = await reader.readexactly(int(headers.get("content-length", 0)))
    return Request(line, headers, body)


class NameServer(asyncio.DatagramProtocol):
    """A DNS server over UDP that answers A queries with `answers` in turn, then the last again.

    Each answer is a list of IPv4 addresses; empty: the name does not exist.
    """

    def __init__(self, answers: list[list[str]]) -> None:
        self._answers = list(answers)
        self.queries = 0
        self._transport: asyncio.DatagramTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.DatagramTransport", transport)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        assert self._transport is not None
        (query_type,) = struct.unpack("!H", data[-4:-2])
        addresses: list[str] = []
        if query_type == 1:
            self.queries += 1
            addresses = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        code = 0 if addresses or query_type != 1 else 3
        header = data[:2] + struct.pack("!HHHHH", 0x8180 | code, 1, len(addresses), 0, 0)
        records = b"".join(
            b"\xc0\x0c" + struct.pack("!HHIH", 1, 1, 0, 4) + socket.inet_aton(address)
            for address in addresses
        )
        self._transport.sendto(header + data[12:] + records, addr)


@asynccontextmanager
async def running_name_server(*answers: list[str]) -> AsyncIterator[tuple[NameServer, int]]:
    """Run a name server; yields it and its port."""
    loop = asyncio.get_running_loop()
    transport, server = await loop.create_datagram_endpoint(
        lambda: NameServer(list(answers)), ("127.0.0.1", 0)
    )
    try:
        yield server, transport.get_extra_info("sockname")[1]
    finally:
        transport.close()
