"""Reads the pending executions of many watched devices in one statement."""

import asyncio
import contextvars
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from itertools import groupby, islice
from operator import itemgetter
from typing import Any, NamedTuple

from fleet.jobs.v1.device_jobs_pb2 import DeviceExecution, WatchPendingExecutionsResponse

from jobs_grpc.byte_budget import ByteBudget, Reservation, response_bytes
from jobs_grpc.db.store import Row, Store
from jobs_grpc.errors import (
    DatabaseUnavailable,
    Internal,
    JobsError,
    Overloaded,
    QueryTimeout,
    SchemaNotCurrent,
    ServerStopping,
)
from jobs_grpc.services.conversions import watched_execution_fields
from jobs_grpc.services.pagination import MAX_RESPONSE_BYTES, PAUSE_BYTES, max_page_bytes
from jobs_grpc.services.struct_json import document_to_wire_format, to_wire_format
from jobs_grpc.services.wire_format import bytes_field

logger = logging.getLogger(__name__)

# Requests that arrive within this time share a statement.
_GATHER_SECONDS = 0.002

# Devices of a statement. With more, the first ones would wait longer for their pages.
_DEVICES_PER_STATEMENT = 500

# Documents and details of a statement, as JSON, and 256 bytes per execution. Its last device can
# exceed it by a page.
_BYTES_PER_STATEMENT = 1024 * 1024

# For the rows of a statement and the pages that are made of them. The first page always fits.
_RESERVED_BYTES = response_bytes(MAX_RESPONSE_BYTES)

# Streams that get a page in one iteration of the event loop, so that other calls get through.
_PAGES_PER_ITERATION = 8

_HAS_MORE = WatchPendingExecutionsResponse(has_more=True).SerializeToString()


class Page(NamedTuple):
    """An encoded WatchPendingExecutionsResponse, and the fingerprint of its executions."""

    response: bytes
    fingerprint: int


@dataclass(frozen=True, slots=True, eq=False)
class _Request:
    """A stream that waits for its page."""

    device_id: str
    limit: int
    reservation: Reservation
    page: "asyncio.Future[Page]"

    def fail(self, error: JobsError) -> None:
        """Fail the request if it still waits. Each stream needs an error of its own."""
        if not self.page.done():
            self.page.set_exception(error)
            self.page.exception()  # A stream that is canceled now does not retrieve it.


class PendingPages:
    """Reads pages: the first pending executions of a device, as an encoded response of its watch.

    Each tenant has one statement at a time; requests that arrive within 2 ms, or during a
    statement, share the next one. Repeats failed statements every `interval` seconds while the
    database is unavailable or overloaded, or its schema is not current. `pause` lets other calls
    run. `stopping` is set when the server begins to stop.
    """

    def __init__(
        self,
        store: Store,
        budget: ByteBudget,
        interval: float,
        stopping: asyncio.Event,
        pause: Callable[[str], Awaitable[None]],
    ) -> None:
        self._store = store
        self._budget = budget
        self._interval = interval
        self._stopping = stopping
        self._pause = pause
        # The streams of each tenant that wait, in order. A stream that ends removes itself.
        self._queues: dict[str, dict[_Request, None]] = {}
        self._readers: set[asyncio.Task[None]] = set()

    async def read(
        self, tenant_id: str, device_id: str, limit: int, reservation: Reservation
    ) -> Page:
        """Return a page of at most `limit` executions; `reservation` then holds its bytes.

        Raises ServerStopping when the server stops.
        """
        request = _Request(device_id, limit, reservation, asyncio.Future())
        queue = self._queues.get(tenant_id)
        if queue is None:
            queue = self._queues[tenant_id] = {}
            # In an empty context, because its log lines must not have the id of this request.
            reader = asyncio.create_task(self._serve(tenant_id), context=contextvars.Context())
            self._readers.add(reader)
            reader.add_done_callback(self._readers.discard)
        queue[request] = None
        try:
            return await request.page
        finally:
            queue.pop(request, None)

    async def _serve(self, tenant_id: str) -> None:
        """Read the pages that a tenant's streams ask for, until none waits."""
        queue = self._queues[tenant_id]
        reservation = Reservation(self._budget, tenant_id)
        reader = asyncio.current_task()
        stopping = asyncio.create_task(self._stopping.wait())
        stopping.add_done_callback(lambda _: reader and reader.cancel())
        max_devices = _DEVICES_PER_STATEMENT
        try:
            while queue:
                if len(queue) < max_devices:
                    await asyncio.sleep(_GATHER_SECONDS)
                await reservation.add(_RESERVED_BYTES, None)
                requests = list(islice(queue, max_devices))
                if not requests:
                    break  # The streams have ended.
                try:
                    served = await self._read(tenant_id, requests, reservation)
                except Exception as e:
                    served = len(requests)
                    _log_failures(served, e)
                    for request in requests:
                        request.fail(Internal())
                reservation.release()
                for request in requests[:served]:
                    queue.pop(request, None)
                if not served:
                    await asyncio.sleep(self._interval)
                # If large pages exhaust the reservation, the rows of further devices are wasted.
                max_devices = 2 * (served if served < len(requests) else max_devices)
                max_devices = min(max(1, max_devices), _DEVICES_PER_STATEMENT)
        finally:
            reservation.release()
            del self._queues[tenant_id]
            for request in queue:
                request.fail(ServerStopping())
            stopping.cancel()

    async def _read(
        self, tenant_id: str, requests: Sequence[_Request], reservation: Reservation
    ) -> int:
        """Give the first streams their pages; their reservations take the bytes from `reservation`.

        Returns how many streams got a page or an error: 0 if the statement must be repeated.
        """
        try:
            rows = await self._store.list_watched_executions(
                tenant_id,
                device_ids=[request.device_id for request in requests],
                limits=[request.limit + 1 for request in requests],
                max_bytes=_BYTES_PER_STATEMENT,
            )
        except (DatabaseUnavailable, Overloaded, QueryTimeout, SchemaNotCurrent):
            return 0
        encoder = _PageEncoder()
        served = failed = unpaused_bytes = 0
        first_failure: Exception | None = None
        free_bytes = _RESERVED_BYTES
        for _, page_rows in groupby(rows, itemgetter("position")):
            request = requests[served]
            *execution_rows, last_row = page_rows
            try:
                response = encoder.encode(request.device_id, execution_rows, request.limit)
            except Exception as e:
                first_failure = first_failure or e
                request.fail(Internal())
                failed += 1
                served += 1
                continue
            size = response_bytes(len(response))
            if served and size > free_bytes:
                break
            served += 1
            if not request.page.done():  # else the stream has ended
                free_bytes = max(0, free_bytes - size)
                reservation.correct(free_bytes)
                request.reservation.correct(size)
                request.page.set_result(Page(response, last_row["fingerprint"]))
            unpaused_bytes += len(response)
            if unpaused_bytes >= PAUSE_BYTES:
                unpaused_bytes = 0
                await self._pause(tenant_id)
            elif served % _PAGES_PER_ITERATION == 0:
                await asyncio.sleep(0)
        if first_failure:
            _log_failures(failed, first_failure)
        return served


def _log_failures(count: int, first: Exception) -> None:
    logger.error(
        "reading the pending executions of %d watched devices failed", count, exc_info=first
    )


class _PageEncoder:
    """Encodes the pages of one statement: what several executions share is encoded once."""

    def __init__(self) -> None:
        # The documents of all jobs so far, as JSON, and the field document_params of some.
        self._documents: dict[str, str] = {}
        self._document_fields: dict[str, bytes] = {}
        # By the values of a row without its device and its document.
        self._shared_fields: dict[tuple[Any, ...], bytes] = {}

    def encode(self, device_id: str, rows: Sequence[Row], limit: int) -> bytes:
        """Return the first executions of a device, as many as a page has room for.

        `rows` are those of list_watched_executions, with one more than `limit` if there are more.
        """
        device = bytes_field(DeviceExecution.DEVICE_ID_FIELD_NUMBER, device_id.encode())
        executions: list[bytes] = []
        total_bytes, max_bytes = 0, max_page_bytes(limit)
        for row in rows:
            # Later devices need the documents, also of rows for which this page has no room.
            if row["document_params"] is not None:
                self._documents[row["job_id"]] = row["document_params"]
        for row in rows:
            execution = bytes_field(
                WatchPendingExecutionsResponse.EXECUTIONS_FIELD_NUMBER,
                device + self._fields(row) + self._document(row["job_id"]),
            )
            total_bytes += len(execution)
            if executions and (len(executions) == limit or total_bytes > max_bytes):
                executions.append(_HAS_MORE)
                break
            executions.append(execution)
        return b"".join(executions)

    def _fields(self, row: Row) -> bytes:
        """All fields but device_id and document_params."""
        details = row["status_details"]
        if details is not None:
            return _encode_fields(row) + bytes_field(
                DeviceExecution.STATUS_DETAILS_FIELD_NUMBER, to_wire_format(details)
            )
        _, *values, _, _ = row.values()
        shared = tuple(values)
        fields = self._shared_fields.get(shared)
        if fields is None:
            fields = self._shared_fields[shared] = _encode_fields(row)
        return fields

    def _document(self, job_id: str) -> bytes:
        """The field document_params."""
        field = self._document_fields.get(job_id)
        if field is None:
            field = self._document_fields[job_id] = bytes_field(
                DeviceExecution.DOCUMENT_PARAMS_FIELD_NUMBER,
                document_to_wire_format(self._documents[job_id]),
            )
        return field


def _encode_fields(row: Row) -> bytes:
    return DeviceExecution(**watched_execution_fields(row)).SerializeToString()
