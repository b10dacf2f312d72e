"""Attacks on the REST gateway. Each runs until it is canceled."""

import asyncio
import itertools
from collections.abc import Awaitable, Callable
from contextlib import suppress

from bench.hostile import tokens

_MIB = 1 << 20

# 1 MiB of JSON that takes fifty times as much memory when it is decoded.
_NUMBERS = b'{"document_params": {"a": [%s1]}}' % (b"1," * 524_000)

# Deeply nested JSON, which a recursive parser would keep on its stack.
_NESTED = b'{"document_params": %s1%s}' % (b'{"a":' * 80_000, b"}" * 80_000)

_TENANT = "X-Tenant-Id: attacker"
# The server accepts no tokens, so each call with one is rejected.
_JUNK_TOKEN = "Authorization: Bearer junk"

_Attack = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


async def _on_connections(
    address: str, connections: int, attack: _Attack, pause: float = 0.05
) -> None:
    """Run the attack on several connections, repeatedly."""
    host, _, port = address.rpartition(":")

    async def repeat() -> None:
        while True:
            with suppress(OSError, asyncio.IncompleteReadError):
                # A small limit: what the attacker does not read waits in the gateway.
                reader, writer = await asyncio.open_connection(host, int(port), limit=1024)
                try:
                    await attack(reader, writer)
                finally:
                    writer.close()
            await asyncio.sleep(pause)

    await asyncio.gather(*(repeat() for _ in range(connections)))


def _request(line: str, *fields: str, length: int | None = None) -> bytes:
    lines = [f"{line} HTTP/1.1", "Host: localhost", *fields]
    if length is not None:
        lines += [f"Content-Length: {length}", "Content-Type: application/json"]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


def _create_job(length: int, *fields: str) -> bytes:
    return _request("POST /customer/jobs", *fields, length=length)


async def bodies_with_junk_token(address: str) -> None:
    """Send 20 bodies of a million numbers at a time, with a token that is rejected."""
    await _send_bodies(address, 20, _NUMBERS, _JUNK_TOKEN)


async def nested_bodies(address: str) -> None:
    """Send 20 deeply nested bodies at a time, as a tenant."""
    await _send_bodies(address, 20, _NESTED, _TENANT)


async def _send_bodies(address: str, connections: int, body: bytes, field: str) -> None:
    async def attack(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(_create_job(len(body), field) + body)
        await reader.readline()

    await _on_connections(address, connections, attack)


async def half_sent_bodies(address: str) -> None:
    """Send 1 MiB except the last byte on 500 connections of one tenant."""
    await _half_sent(address, (_TENANT,))


async def half_sent_bodies_with_junk_token(address: str) -> None:
    """Send 1 MiB except the last byte on 500 connections, with a token that is rejected."""
    await _half_sent(address, (_JUNK_TOKEN,))


async def bodies_under_ten_spellings(address: str) -> None:
    """Send 250 KB except the last byte on 500 connections, with ten spellings of one token."""
    await _half_sent(address, *tokens.spellings(_token("d0000001", "device"), "attacker"))


async def bodies_of_ten_devices(address: str) -> None:
    """Send 250 KB except the last byte on 500 connections, with tokens of ten devices."""
    names = (f"d{number:07}" for number in range(10))
    await _half_sent(address, *((_bearer(_token(name, "device")),) for name in names))


async def _half_sent(address: str, *callers: tuple[str, ...]) -> None:
    # Without a token, two sizes: one above the gateway's limit, and one below it.
    lengths = itertools.cycle((_MIB, 250_000) if len(callers) == 1 else (250_000,))
    fields = itertools.cycle(callers)

    async def attack(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        length = next(lengths)
        writer.write(_create_job(length, *next(fields)) + bytes(length - 1))
        await reader.readline()

    await _on_connections(address, 500, attack)


async def watches_under_ten_spellings(address: str) -> None:
    """Open 1,000 watches with ten spellings of one token."""
    await _watch(address, *tokens.spellings(_token("victor", "viewer"), "attacker"))


async def watches_of_ten_users(address: str) -> None:
    """Open 1,000 watches with tokens of ten users of one tenant."""
    names = (f"user-{number}" for number in range(10))
    await _watch(address, *((_bearer(_token(name, "viewer")),) for name in names))


async def watches_with_junk_tokens(address: str) -> None:
    """Open 1,000 watches while the server is away, each with another token that is invalid."""
    await _watch(address, *((f"Authorization: Bearer junk-{n}",) for n in range(1000)))


async def _watch(address: str, *callers: tuple[str, ...]) -> None:
    fields = itertools.cycle(callers)

    async def attack(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # With an event id, the watch waits while the server is away.
        writer.write(_request("GET /customer/jobs/j:watch", *next(fields), "Last-Event-ID: x"))
        while await reader.read(1024):
            pass

    # A refused client is asked to wait for a second.
    await _on_connections(address, 1000, attack, pause=1)


async def event_streams(address: str) -> None:
    """Open 1,000 streams of events and read nothing after the headers."""

    async def attack(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(_request("GET /customer/events:watch?after_position=0", _TENANT))
        await reader.readline()
        await writer.wait_closed()

    await _on_connections(address, 1000, attack, pause=1)


def _token(subject: str, role: str) -> str:
    return tokens.make_token("attacker", subject, role)


def _bearer(text: str) -> str:
    return f"Authorization: Bearer {text}"


async def unread_responses(address: str) -> None:
    """Request pages of 5,000 executions on 1,500 connections and read no response."""

    async def attack(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = _request("GET /customer/jobs/j?executions_limit=5000", _TENANT)
        # Several requests on one connection: the gateway reads the next one after the response.
        writer.write(request * 10)
        await writer.wait_closed()

    await _on_connections(address, 1500, attack)


async def slow_headers(address: str) -> None:
    """Send the headers of a request one byte a second, on 1,500 connections."""

    async def attack(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for byte in _request("GET /customer/jobs/j", _TENANT, "X-Text: " + "x" * 1000):
            writer.write(bytes([byte]))
            await writer.drain()
            await asyncio.sleep(1)

    await _on_connections(address, 1500, attack)


async def slow_bodies(address: str) -> None:
    """Announce a body of 200 KiB and send one byte a second, on 1,500 connections."""

    async def attack(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(_create_job(200 << 10, _TENANT))
        while not reader.at_eof():
            writer.write(b"{")
            await writer.drain()
            await asyncio.sleep(1)

    await _on_connections(address, 1500, attack)


async def large_headers(address: str) -> None:
    """Send 1,500 requests with 30 KiB of headers that never end."""

    async def attack(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(_request("GET /customer/jobs/j", _TENANT, "X-Text: " + "x" * 30_000)[:-2])
        await reader.readline()

    await _on_connections(address, 1500, attack)
