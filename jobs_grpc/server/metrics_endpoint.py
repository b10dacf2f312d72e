"""Serves metrics over HTTP, at /metrics.

The HTTP servers of prometheus_client and of the standard library start a thread per connection,
without a limit on connections or on time. This one serves only one page, and limits both.
"""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager, suppress

from prometheus_client import generate_latest
from prometheus_client.core import Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.registry import Collector

from jobs_grpc.server.sockets import ListenError

logger = logging.getLogger(__name__)

Collect = Callable[[], Awaitable[Iterable[Metric]]]

MAX_CONNECTIONS = 16
"""Open connections; the server closes further ones at once."""

_MAX_REQUEST_BYTES = 8192
_REQUEST_TIMEOUT = 5.0
_RESPONSE_TIMEOUT = 10.0

# The page is collected at most once in this time, whatever the number of requests.
_MAX_AGE_SECONDS = 1.0


@asynccontextmanager
async def serving_metrics(
    address: str, collect: Collect, *, max_age: float = _MAX_AGE_SECONDS
) -> AsyncIterator[str]:
    """Serve what `collect` returns until the block ends; yields the address with its port.

    Raises ListenError.
    """
    endpoint = _Endpoint(collect, max_age)
    host, _, port = address.rpartition(":")
    try:
        server = await asyncio.start_server(
            endpoint.serve,
            host.strip("[]"),
            int(port),
            limit=_MAX_REQUEST_BYTES,
            backlog=MAX_CONNECTIONS,
        )
    except OSError:
        raise ListenError(address, "JOBS_METRICS_LISTEN") from None
    try:
        yield f"{host}:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        await endpoint.close()


class _Endpoint:
    def __init__(self, collect: Collect, max_age: float) -> None:
        self._collect = collect
        self._max_age = max_age
        self._connections: set[asyncio.Task[None]] = set()
        self._collecting = asyncio.Lock()
        self._page = b""
        self._collected_at = -max_age

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one request and close the connection."""
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - coroutines run in tasks
        if len(self._connections) == MAX_CONNECTIONS:
            writer.transport.abort()
            return
        self._connections.add(task)
        try:
            async with asyncio.timeout(_REQUEST_TIMEOUT):
                request = await reader.readuntil(b"\r\n\r\n")
            response = await self._respond(request)
            async with asyncio.timeout(_RESPONSE_TIMEOUT):
                writer.write(response)
                await writer.drain()
                writer.close()
                await writer.wait_closed()
        except (TimeoutError, ConnectionError, asyncio.IncompleteReadError):
            pass  # A client that is too slow, or has left.
        except asyncio.CancelledError:
            pass  # The endpoint closes. Python 3.11 logs an error if this task is canceled.
        except asyncio.LimitOverrunError:
            writer.write(_response("431 Request Header Fields Too Large"))
        except Exception:
            logger.exception("could not collect metrics")
            writer.write(_response("500 Internal Server Error"))
        finally:
            self._connections.discard(task)
            # Sends what is left of a response, unless the client does not read it.
            writer.close()
            if writer.transport.get_write_buffer_size():
                writer.transport.abort()

    async def close(self) -> None:
        """End all connections."""
        for task in self._connections:
            task.cancel()
        with suppress(asyncio.CancelledError):
            await asyncio.gather(*self._connections, return_exceptions=True)

    async def _respond(self, request: bytes) -> bytes:
        method, _, rest = request.partition(b"\r\n")[0].partition(b" ")
        path = rest.partition(b" ")[0].partition(b"?")[0]
        if path != b"/metrics":
            return _response("404 Not Found")
        if method not in (b"GET", b"HEAD"):
            return _response("405 Method Not Allowed", headers=("Allow: GET, HEAD",))
        page = await self._latest_page()
        return _response("200 OK", page, send_body=method == b"GET")

    async def _latest_page(self) -> bytes:
        async with self._collecting:
            if time.monotonic() - self._collected_at >= self._max_age:
                snapshot = _Snapshot(await self._collect())
                # In a thread, because it takes some milliseconds: calls go on meanwhile.
                self._page = await asyncio.to_thread(generate_latest, snapshot)
                self._collected_at = time.monotonic()
            return self._page


class _Snapshot(Collector):
    """Metrics that were collected before."""

    def __init__(self, metrics: Iterable[Metric]) -> None:
        self._metrics = list(metrics)

    def collect(self) -> Iterable[Metric]:
        return self._metrics


def _response(
    status: str, body: bytes = b"", *, headers: Iterable[str] = (), send_body: bool = True
) -> bytes:
    content_type = CONTENT_TYPE_PLAIN_0_0_4 if body else "text/plain; charset=utf-8"
    body = body or f"{status}\n".encode()
    head = [
        f"HTTP/1.1 {status}",
        f"Content-Type: {content_type}",
        f"Content-Length: {len(body)}",
        "Connection: close",
        *headers,
    ]
    return "\r\n".join([*head, "", ""]).encode() + (body if send_body else b"")
