"""A minimal HTTP/2 client that can violate the protocol, which client libraries prevent."""

import asyncio
import struct
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

from google.protobuf.message import Message

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8

END_STREAM, ACK, END_HEADERS = 1, 1, 4

ENHANCE_YOUR_CALM = 11

_INITIAL_WINDOW_SIZE = 4


@dataclass(frozen=True)
class Frame:
    type_: int
    flags: int
    stream: int
    payload: bytes


def frame(type_: int, flags: int = 0, stream: int = 0, payload: bytes = b"") -> bytes:
    return (
        len(payload).to_bytes(3, "big")
        + bytes([type_, flags])
        + struct.pack(">I", stream)
        + payload
    )


def headers(fields: Mapping[str, str]) -> bytes:
    """A header block without compression."""
    block = b""
    for field in fields.items():
        block += b"\0" + b"".join(bytes([len(text)]) + text.encode() for text in field)
    return block


def message(request: Message) -> bytes:
    """A message with its gRPC length prefix."""
    raw = request.SerializeToString()
    return b"\0" + struct.pack(">I", len(raw)) + raw


@dataclass(frozen=True)
class Connection:
    """A connection on which tests write and read single frames."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    def open(self, stream: int, method: str, metadata: Mapping[str, str]) -> None:
        """Send the headers of a call on a stream, whose number must be odd."""
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
        self.open(stream, method, metadata)
        self.writer.write(frame(DATA, END_STREAM, stream, message(request)))

    async def frames(self) -> AsyncIterator[Frame]:
        """The frames that the server sends, until it closes the connection."""
        try:
            while True:
                head = await self.reader.readexactly(9)
                payload = await self.reader.readexactly(int.from_bytes(head[:3], "big"))
                yield Frame(head[3], head[4], int.from_bytes(head[5:], "big"), payload)
        except (asyncio.IncompleteReadError, ConnectionError):
            return


@asynccontextmanager
async def connection(address: str, window: int = 65535) -> AsyncIterator[Connection]:
    """Connect to HOST:PORT. The server may send `window` bytes on each stream."""
    host, _, port = address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    settings = struct.pack(">HI", _INITIAL_WINDOW_SIZE, window)
    writer.write(PREFACE + frame(SETTINGS, payload=settings) + frame(SETTINGS, ACK))
    try:
        yield Connection(reader, writer)
    finally:
        await close(writer)


async def close(writer: asyncio.StreamWriter) -> None:
    """Close a connection that the server may have closed already."""
    writer.close()
    with suppress(OSError):
        await writer.wait_closed()
