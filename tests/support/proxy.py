"""A TCP proxy in front of PostgreSQL that can be slow to connect or stop forwarding."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from urllib.parse import parse_qs, urlsplit, urlunsplit


class Proxy:
    """Forwards connections. A frozen proxy keeps them open and forwards nothing."""

    def __init__(self, target_dsn: str, delay: float) -> None:
        self._target = target_dsn
        self._delay = delay
        self._open = asyncio.Event()
        self._open.set()
        self.dsn = ""

    def freeze(self) -> None:
        self._open.clear()

    def thaw(self) -> None:
        self._open.set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Forward one connection until it ends."""
        await asyncio.sleep(self._delay)
        upstream_reader, upstream_writer = await self._connect()
        try:
            await asyncio.gather(
                self._pump(reader, upstream_writer), self._pump(upstream_reader, writer)
            )
        finally:
            writer.close()
            upstream_writer.close()

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        parts = urlsplit(self._target)
        if folder := parse_qs(parts.query).get("host"):
            return await asyncio.open_unix_connection(f"{folder[0]}/.s.PGSQL.5432")
        return await asyncio.open_connection(parts.hostname, parts.port or 5432)

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            while data := await reader.read(65536):
                await self._open.wait()
                writer.write(data)
                await writer.drain()
        writer.close()


@asynccontextmanager
async def running_proxy(target_dsn: str, delay: float = 0) -> AsyncIterator[Proxy]:
    """Run a proxy to a database; it waits `delay` seconds before it opens a connection."""
    proxy = Proxy(target_dsn, delay)
    server = await asyncio.start_server(proxy.serve, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    parts = urlsplit(target_dsn)
    user = parts.netloc.rpartition("@")[0]
    proxy.dsn = urlunsplit(parts._replace(netloc=f"{user}@{host}:{port}", query=""))
    try:
        yield proxy
    finally:
        proxy.thaw()
        server.close()
