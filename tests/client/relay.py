"""A TCP relay in front of the service whose connections a test can freeze and cut."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress


class Relay:
    """Forwards connections to `target`, HOST:PORT."""

    def __init__(self, target: str) -> None:
        self._host, _, self._port = target.rpartition(":")
        self._writers: set[asyncio.StreamWriter] = set()
        self._answers = asyncio.Event()
        self._answers.set()
        self.address = ""
        self.connection_count = 0

    def hold_answers(self) -> None:
        """Forward nothing from the service to the client, until the next `cut`."""
        self._answers.clear()

    def cut(self) -> None:
        """Reset all connections, with the answers that were held."""
        for writer in self._writers:
            writer.transport.abort()
        self._writers.clear()
        self._answers.set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Forward one connection until it ends."""
        self.connection_count += 1
        try:
            upstream_reader, upstream_writer = await asyncio.open_connection(self._host, self._port)
        except OSError:
            writer.close()
            return
        self._writers |= {writer, upstream_writer}
        always = asyncio.Event()
        always.set()
        try:
            await asyncio.gather(
                self._pump(reader, upstream_writer, always),
                self._pump(upstream_reader, writer, self._answers),
            )
        finally:
            self._writers -= {writer, upstream_writer}

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, allowed: asyncio.Event
    ) -> None:
        with suppress(ConnectionError):
            while data := await reader.read(65536):
                await allowed.wait()
                writer.write(data)
                await writer.drain()
        writer.close()


@asynccontextmanager
async def running_relay(target: str) -> AsyncIterator[Relay]:
    relay = Relay(target)
    server = await asyncio.start_server(relay.serve, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    relay.address = f"{host}:{port}"
    try:
        yield relay
    finally:
        server.close()
        relay.cut()
