"""Encodes the pages of WatchPendingExecutions, of many devices from one statement."""

from collections.abc import Iterator, Sequence
from functools import partial
from itertools import groupby
from operator import itemgetter
from typing import Any, NamedTuple

from fleet.jobs.v1.device_jobs_pb2 import DeviceExecution, WatchPendingExecutionsResponse

from jobs_grpc.db.store import Row, Store
from jobs_grpc.services.batch_reader import Encode
from jobs_grpc.services.response_pages import json_elements, max_page_bytes, max_page_elements
from jobs_grpc.services.row_conversions import ended_executions, watched_execution_fields
from jobs_grpc.services.struct_json import document_to_wire_format, to_wire_format
from jobs_grpc.services.wire_format import bytes_field

# Documents and details of a statement, as JSON, and 256 bytes per execution. Its last device can
# exceed it by a page.
_BYTES_PER_STATEMENT = 1024 * 1024

_HAS_MORE = WatchPendingExecutionsResponse(has_more=True).SerializeToString()


class PageQuery(NamedTuple):
    """The first `limit` pending executions of a device."""

    device_id: str
    limit: int


class Page(NamedTuple):
    """An encoded WatchPendingExecutionsResponse, and the fingerprint of its executions."""

    response: bytes
    fingerprint: int


async def read_pages(
    store: Store, tenant_id: str, queries: Sequence[PageQuery]
) -> Iterator[Encode[Page]]:
    """Read the rows of several devices in one statement; see batch_reader.Read."""
    rows = await store.list_watched_executions(
        tenant_id,
        device_ids=[query.device_id for query in queries],
        limits=[query.limit + 1 for query in queries],
        max_bytes=_BYTES_PER_STATEMENT,
    )
    return _encoders(rows, queries)


def _encoders(rows: Sequence[Row], queries: Sequence[PageQuery]) -> Iterator[Encode[Page]]:
    encoder = _PageEncoder()
    for query, (_, page_rows) in zip(queries, groupby(rows, itemgetter("position")), strict=False):
        yield partial(encoder.page, query, list(page_rows))


class _PageEncoder:
    """Encodes the pages of one statement: what several executions share is encoded once."""

    def __init__(self) -> None:
        # The documents of all jobs so far, as JSON, and the field document_params of some.
        self._documents: dict[str, str] = {}
        self._document_fields: dict[str, bytes] = {}
        # By the values of a row without its device and its document.
        self._shared_fields: dict[tuple[Any, ...], bytes] = {}

    def page(self, query: PageQuery, rows: Sequence[Row]) -> Page:
        """Return the page of a device, from its rows of list_watched_executions.

        They have one execution more than the limit if there are more, and then the fingerprint.
        """
        *execution_rows, last_row = rows
        ended = b""
        if last_row["ended_executions"] is not None:
            message = WatchPendingExecutionsResponse(ended_executions=ended_executions(last_row))
            ended = message.SerializeToString()
        response = self._encode(query.device_id, execution_rows, query.limit, len(ended))
        # The concatenation of two messages is the message with the fields of both.
        return Page(response + ended, last_row["fingerprint"])

    def _encode(self, device_id: str, rows: Sequence[Row], limit: int, used_bytes: int) -> bytes:
        """Return the first executions of a device, as many as a page has room for."""
        device = bytes_field(DeviceExecution.DEVICE_ID_FIELD_NUMBER, device_id.encode())
        executions: list[bytes] = []
        total_bytes, max_bytes = used_bytes, max_page_bytes(limit)
        total_elements, max_elements = 0, max_page_elements(limit)
        for row in rows:
            # Later devices need the documents, also of rows for which this page has no room.
            if row["document_params"] is not None:
                self._documents[row["job_id"]] = row["document_params"]
        for row in rows:
            total_elements += json_elements(self._documents[row["job_id"]])
            total_elements += json_elements(row["status_details"] or "")
            if executions and total_elements > max_elements:
                executions.append(_HAS_MORE)
                break
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
        _, *values, _, _, _ = row.values()
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
