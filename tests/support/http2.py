"""HTTP/2 by hand: a client that does what no library would."""

import asyncio
import struct
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

from google.protobuf.message import Message

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

DATA, HEADERS, SETTINGS, PING, GOAWAY, WINDOW_UPDATE = 0, 1, 4, 6, 7, 8

END_STREAM, ACK, END_HEADERS = 1, 1, 4

ENHANCE_YOUR_CALM = 11

_INITIAL_WINDOW_SIZE = 4


@dataclass(frozen=True)
class Frame:
    """A frame as it came."""

    kind: int
    flags: int
    stream: int
    payload: bytes


def frame(kind: int, flags: int = 0, stream: int = 0, payload: bytes = b"") -> bytes:
    """A frame as it is sent."""
    return (
        len(payload).to_bytes(3, "big") + bytes([kind, flags]) + struct.pack(">I", stream) + payload
    )


def headers(fields: Mapping[str, str]) -> bytes:
    """A header block, without compression."""
    block = b""
    for name, value in fields.items():
        block += b"\0" + b"".join(bytes([len(t)]) + t.encode() for t in (name, value))
    return block


def message(request: Message) -> bytes:
    """A message as gRPC frames it."""
    raw = request.SerializeToString()
    return b"\0" + struct.pack(">I", len(raw)) + raw


@dataclass(frozen=True)
class Connection:
    """A connection whose frames are written and read one by one."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    def open(self, stream: int, method: str, metadata: Mapping[str, str]) -> None:
        """Begin a call, on the stream of this (odd) number."""
        fields = {
            ":method": "POST",
            ":scheme": "http",
            ":path": method,
            ":authority": "test",
            "content-type": "application/grpc",
            "te": "trailers",
        }
        self.writer.write(frame(HEADERS, END_HEADERS, stream, headers({**fields, **metadata})))

    def call(self, stream: int, method: str, metadata: Mapping[str, str], request: Message) -> None:
        """Call with one request."""
        self.open(stream, method, metadata)
        self.writer.write(frame(DATA, END_STREAM, stream, message(request)))

    async def frames(self) -> AsyncIterator[Frame]:
        """What the server sends, until it closes the connection."""
        try:
            while True:
                head = await self.reader.readexactly(9)
                payload = await self.reader.readexactly(int.from_bytes(head[:3], "big"))
                yield Frame(head[3], head[4], int.from_bytes(head[5:], "big"), payload)
        except (asyncio.IncompleteReadError, ConnectionError):
            return


@asynccontextmanager
async def connection(address: str, window: int = 65535) -> AsyncIterator[Connection]:
    """A connection to HOST:PORT; on each stream, the server may send `window` bytes."""
    host, _, port = address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    settings = struct.pack(">HI", _INITIAL_WINDOW_SIZE, window)
    writer.write(PREFACE + frame(SETTINGS, payload=settings) + frame(SETTINGS, ACK))
    try:
        yield Connection(reader, writer)
    finally:
        await close(writer)


async def close(writer: asyncio.StreamWriter) -> None:
    """Close a connection, also one that the server has closed."""
    writer.close()
    with suppress(OSError):
        await writer.wait_closed()
