"""HTTP/2 connections that follow flow control, except where a test or an attack violates it."""

import asyncio
import struct
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

from tests.support import http2

_RST_STREAM = 3
_MAX_FRAME = 16_384
_DEFAULT_WINDOW = 65_535
_INITIAL_WINDOW_SIZE = 4


def rst_stream(stream: int) -> bytes:
    return http2.frame(_RST_STREAM, stream=stream, payload=struct.pack(">I", 8))


def length_prefixed(raw: bytes, *, compressed: bool = False) -> bytes:
    """Return a serialized message with its gRPC length prefix."""
    return bytes([compressed]) + struct.pack(">I", len(raw)) + raw


class Connection:
    """A connection whose frames are read in the background and, apart from windows, ignored."""

    def __init__(self, raw: http2.Connection) -> None:
        self.raw = raw
        self._window = self._initial_window = _DEFAULT_WINDOW
        self._stream_windows: dict[int, int] = {}
        self._ended: set[int] = set()
        self._changed = asyncio.Event()
        self._pong = asyncio.Event()
        self.is_closed = False

    def open(self, stream: int, method: str, metadata: dict[str, str]) -> None:
        self._stream_windows[stream] = self._initial_window
        self.raw.open(stream, method, metadata)

    async def send(self, stream: int, data: bytes, *, end: bool = False) -> None:
        """Send data as far as the windows allow, until the server ends the stream."""
        sent = 0
        while sent < len(data) and not self._is_over(stream):
            size = min(len(data) - sent, _MAX_FRAME, self._window, self._stream_windows[stream])
            if size <= 0:
                await self._changed.wait()
                continue
            payload = data[sent : sent + size]
            sent += size
            flags = http2.END_STREAM if end and sent == len(data) else 0
            self.raw.writer.write(http2.frame(http2.DATA, flags, stream, payload))
            self._window -= size
            self._stream_windows[stream] -= size
            await self.raw.writer.drain()

    def send_what_fits(self, stream: int, size: int) -> int:
        """Send zeros, up to `size`, that fit the windows now. Returns how many."""
        size = min(size, self._window, self._stream_windows[stream])
        for start in range(0, size, _MAX_FRAME):
            payload = bytes(min(_MAX_FRAME, size - start))
            self.raw.writer.write(http2.frame(http2.DATA, 0, stream, payload))
        self._window -= size
        self._stream_windows[stream] -= size
        return size

    async def ping(self) -> None:
        """Send a ping, and wait until the server has answered it."""
        self._pong = asyncio.Event()
        self.raw.writer.write(http2.frame(http2.PING, payload=bytes(8)))
        await self._pong.wait()

    @property
    def ended_count(self) -> int:
        """The number of streams that the server has ended."""
        return len(self._ended)

    async def wait_for_end(self, stream: int = 0) -> None:
        """Wait until the server has ended the stream, or by default the connection."""
        while not self._is_over(stream):
            await self._changed.wait()

    async def read_frames(self) -> None:
        async for received in self.raw.frames():
            self._apply(received)
            self._notify()
        self.is_closed = True
        self._notify()

    def _is_over(self, stream: int) -> bool:
        return self.is_closed or stream in self._ended

    def _notify(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    def _apply(self, received: http2.Frame) -> None:
        stream, payload = received.stream, received.payload
        if received.type_ == http2.WINDOW_UPDATE:
            (increment,) = struct.unpack(">I", payload)
            if stream:
                self._stream_windows[stream] = self._stream_windows.get(stream, 0) + increment
            else:
                self._window += increment
        elif received.type_ == http2.SETTINGS and not received.flags & http2.ACK:
            for name, value in struct.iter_unpack(">HI", payload):
                if name == _INITIAL_WINDOW_SIZE:
                    for number in self._stream_windows:
                        self._stream_windows[number] += value - self._initial_window
                    self._initial_window = value
        elif received.type_ == http2.PING and received.flags & http2.ACK:
            self._pong.set()
        elif received.type_ == http2.PING:
            self.raw.writer.write(http2.frame(http2.PING, http2.ACK, payload=payload))
        elif received.type_ == _RST_STREAM or (
            received.type_ in {http2.HEADERS, http2.DATA} and received.flags & http2.END_STREAM
        ):
            self._ended.add(stream)


@asynccontextmanager
async def connect(address: str, window: int = _DEFAULT_WINDOW) -> AsyncIterator[Connection]:
    """Connect. The server may send `window` bytes on each stream."""
    async with http2.connection(address, window) as raw:
        connection = Connection(raw)
        reader = asyncio.create_task(connection.read_frames())
        try:
            yield connection
        finally:
            reader.cancel()


@asynccontextmanager
async def connections(
    address: str, count: int = 25, window: int = 0
) -> AsyncIterator[list[Connection]]:
    """Open several connections, by default with no window for responses."""
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(connect(address, window)) for _ in range(count)]


def streams(connections: Sequence[Connection], count: int) -> Iterator[tuple[Connection, int]]:
    """Yield `count` pairs of a connection and a stream ID, round-robin."""
    for number in range(count):
        yield connections[number % len(connections)], 2 * (number // len(connections)) + 1
