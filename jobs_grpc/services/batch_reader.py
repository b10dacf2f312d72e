"""Reads rows for watch streams: streams of a tenant share statements, one statement at a time."""

import asyncio
import contextvars
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Generic, Protocol, TypeAlias, TypeVar

from jobs_grpc.errors import (
    DatabaseUnavailable,
    Internal,
    JobsError,
    Overloaded,
    QueryTimeout,
    SchemaNotCurrent,
    ServerStopping,
)
from jobs_grpc.limits.memory_limit import MemoryLimit, Reservation, response_bytes
from jobs_grpc.services.response_pages import BYTES_PER_YIELD, MAX_RESPONSE_BYTES

logger = logging.getLogger(__name__)

# Requests that arrive within this time share a statement.
_GATHER_SECONDS = 0.002

# The maximum number of statements in progress, of all tenants. With more, other calls would wait
# behind them for a database connection.
_STATEMENTS = 4

# With more requests in a statement, the first ones would wait longer for their responses.
_REQUESTS_PER_STATEMENT = 500

# For the rows of a statement and their encoded responses. The first response always fits.
_RESERVED_BYTES = response_bytes(MAX_RESPONSE_BYTES)

# Streams that get a response in one iteration of the event loop, so that other calls get through.
_RESPONSES_PER_ITERATION = 8


class Encoded(Protocol):
    """The result of a query."""

    @property
    def response(self) -> bytes:
        """The encoded response; empty if there is none."""


Q = TypeVar("Q")
V = TypeVar("V", bound=Encoded)

Encode: TypeAlias = Callable[[], V]

Read: TypeAlias = Callable[[str, Sequence[Q]], Awaitable[Iterator[Encode[V]]]]
"""Reads the rows for the queries of a tenant in one statement.

Returns a function for each query, in order, which encodes its result. It may leave out the last
queries; the next statement reads these. Raises what methods of Store raise.
"""


@dataclass(frozen=True, slots=True, eq=False)
class _Request(Generic[Q, V]):
    """A query of a stream that waits for the result."""

    query: Q
    reservation: Reservation
    result: "asyncio.Future[V]"

    def fail(self, error: JobsError) -> None:
        """Fail the request if it still waits. Each stream needs an error of its own."""
        if not self.result.done():
            self.result.set_exception(error)
            self.result.exception()  # A stream that is canceled now does not retrieve it.


class BatchReader(Generic[Q, V]):
    """Reads for the watch streams of any number of tenants.

    Each tenant has one statement at a time; requests that arrive within 2 ms, or during a
    statement, share the next one. Repeats failed statements every `interval` seconds while the
    database is unavailable or overloaded, or its schema is not current. `yield_now` lets other
    calls run. `stopping` is set when the server begins to stop. `noun` names the rows in logs.
    """

    def __init__(
        self,
        read: Read[Q, V],
        memory: MemoryLimit,
        interval: float,
        stopping: asyncio.Event,
        yield_now: Callable[[str], Awaitable[None]],
        *,
        noun: str,
    ) -> None:
        self._read_rows = read
        self._memory = memory
        self._interval = interval
        self._stopping = stopping
        self._yield_now = yield_now
        self._noun = noun
        # The streams of each tenant that wait, in order. A stream that ends removes itself.
        self._queues: dict[str, dict[_Request[Q, V], None]] = {}
        self._readers: set[asyncio.Task[None]] = set()
        self._statements = asyncio.Semaphore(_STATEMENTS)

    async def read(self, tenant_id: str, query: Q, reservation: Reservation) -> V:
        """Return the result of the query; `reservation` then holds the bytes of its response.

        Raises ServerStopping when the server stops.
        """
        request: _Request[Q, V] = _Request(query, reservation, asyncio.Future())
        queue = self._queues.get(tenant_id)
        if queue is None:
            queue = self._queues[tenant_id] = {}
            # In an empty context, because its log lines must not have the id of this request.
            reader = asyncio.create_task(self._serve(tenant_id), context=contextvars.Context())
            self._readers.add(reader)
            reader.add_done_callback(self._readers.discard)
        queue[request] = None
        try:
            return await request.result
        finally:
            queue.pop(request, None)

    async def _serve(self, tenant_id: str) -> None:
        """Answer the queries of a tenant's streams, until none waits."""
        queue = self._queues[tenant_id]
        reservation = Reservation(self._memory, tenant_id)
        reader = asyncio.current_task()
        stopping = asyncio.create_task(self._stopping.wait())
        stopping.add_done_callback(lambda _: reader and reader.cancel())
        max_requests = _REQUESTS_PER_STATEMENT
        try:
            while queue:
                if len(queue) < max_requests:
                    await asyncio.sleep(_GATHER_SECONDS)
                async with self._statement(reservation):
                    requests = list(islice(queue, max_requests))
                    if not requests:
                        break  # The streams have ended.
                    try:
                        served = await self._read(tenant_id, requests, reservation)
                    except Exception as e:
                        served = len(requests)
                        self._log_failures(served, e)
                        for request in requests:
                            request.fail(Internal())
                for request in requests[:served]:
                    queue.pop(request, None)
                if not served:
                    await asyncio.sleep(self._interval)
                # If large responses exhaust the reservation, the other queries' rows are wasted.
                max_requests = 2 * (served if served < len(requests) else max_requests)
                max_requests = min(max(1, max_requests), _REQUESTS_PER_STATEMENT)
        finally:
            del self._queues[tenant_id]
            for request in queue:
                request.fail(ServerStopping())
            stopping.cancel()

    @asynccontextmanager
    async def _statement(self, reservation: Reservation) -> AsyncIterator[None]:
        """Wait until a statement may run, and for its bytes."""
        try:
            async with self._statements:
                if reservation.try_set_size(_RESERVED_BYTES):
                    yield
                    return
            # Slow clients of the tenant may hold its bytes for long.
            await reservation.add(_RESERVED_BYTES, None)
            async with self._statements:
                yield
        finally:
            reservation.release()

    async def _read(
        self, tenant_id: str, requests: Sequence[_Request[Q, V]], reservation: Reservation
    ) -> int:
        """Answer the first requests, and give them bytes of `reservation`.

        Returns how many got a response or an error: 0 if the statement must be repeated.
        """
        try:
            results = await self._read_rows(tenant_id, [request.query for request in requests])
        except (DatabaseUnavailable, Overloaded, QueryTimeout, SchemaNotCurrent):
            return 0
        served = failed = bytes_since_yield = 0
        first_failure: Exception | None = None
        free_bytes = _RESERVED_BYTES
        for request, encode in zip(requests, results, strict=False):
            try:
                result = encode()
            except Exception as e:
                first_failure = first_failure or e
                request.fail(Internal())
                failed += 1
                served += 1
                continue
            size = response_bytes(len(result.response))
            if served and size > free_bytes:
                break
            served += 1
            if not request.result.done():  # else the stream has ended
                free_bytes = max(0, free_bytes - size)
                reservation.set_size(free_bytes)
                request.reservation.set_size(size)
                request.result.set_result(result)
            bytes_since_yield += len(result.response)
            if bytes_since_yield >= BYTES_PER_YIELD:
                bytes_since_yield = 0
                await self._yield_now(tenant_id)
            elif served % _RESPONSES_PER_ITERATION == 0:
                await asyncio.sleep(0)
        if first_failure:
            self._log_failures(failed, first_failure)
        return served

    def _log_failures(self, count: int, first: Exception) -> None:
        logger.error("reading %s failed for %d watches", self._noun, count, exc_info=first)
