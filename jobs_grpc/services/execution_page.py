"""Fills a page with executions of one job."""

import functools
from collections.abc import Iterable
from typing import Any

from fleet.jobs.v1.jobs_pb2 import Job, JobExecution, ListJobExecutionsResponse
from google.protobuf.descriptor import FieldDescriptor

from jobs_grpc.db.execution_columns import FIELDS, page_column
from jobs_grpc.db.store import Row
from jobs_grpc.limits.fair_slots import YieldNow
from jobs_grpc.services.response_pages import (
    BYTES_PER_YIELD,
    conversion_bytes,
    json_elements,
    max_page_bytes,
    max_page_elements,
)
from jobs_grpc.services.row_conversions import (
    EXECUTION_CONVERSIONS,
    set_timestamp,
    timestamp_fields,
)
from jobs_grpc.services.struct_json import from_json
from jobs_grpc.services.wire_format import varint

# The fields of an execution, without device_id. Executions with times of their own share the other
# values, so these are compared as a whole.
_TIMES = [name for name, convert in EXECUTION_CONVERSIONS.items() if convert is timestamp_fields]
_VALUES = [name for name in EXECUTION_CONVERSIONS if name not in ("device_id", *_TIMES)]
_TIME_COLUMNS = [*map(page_column, _TIMES)]
_VALUE_COLUMNS = [*map(page_column, _VALUES)]
_CONVERSIONS = [(name, EXECUTION_CONVERSIONS[name]) for name in _VALUES]
_STATUS = _VALUES.index("status")
_DETAILS = _VALUES.index("status_details")
# The positions of texts, whose contents are not part of _OVERHEAD_BYTES.
_TEXTS = [
    _VALUES.index(field.name)
    for field in FIELDS
    if field.name in _VALUES and field.cpp_type == FieldDescriptor.CPPTYPE_STRING
]

# Upper bound for the bytes of an execution in a page, without the contents of device_id,
# status_details and the texts: its own tag and length, its times and numbers, and the tags and
# lengths of all fields.
_MESSAGE_OVERHEAD_BYTES = 5
_MAX_TIMESTAMP_BYTES = 18  # with its length
_MAX_BYTES = {
    FieldDescriptor.CPPTYPE_MESSAGE: 4,  # the length of status_details
    FieldDescriptor.CPPTYPE_STRING: 2,  # the length
    FieldDescriptor.CPPTYPE_INT32: 5,
}
_OVERHEAD_BYTES = _MESSAGE_OVERHEAD_BYTES + sum(
    len(varint(field.number << 3))
    + (_MAX_TIMESTAMP_BYTES if field.name in _TIMES else _MAX_BYTES.get(field.cpp_type, 1))
    for field in FIELDS
)


async def append_executions(
    message: Job | ListJobExecutionsResponse,
    row: Row,
    limit: int,
    yield_now: YieldNow,
    used_bytes: int = 0,
) -> bool:
    """Append the executions of a row of jobs.execution_page to `message` until its page is full.

    The page is full when it has `limit` executions, which may be 0, or when the next one could
    exceed max_page_bytes or max_page_elements; otherwise it has at least one. An execution without
    a status has no room on the page. `used_bytes` is the size of the rest of the response. Returns
    True if executions are left over. Calls `yield_now` at times, so that other calls run.
    """
    total_bytes, max_bytes, bytes_since_yield = used_bytes, max_page_bytes(limit), 0
    total_elements, max_elements, elements = 0, max_page_elements(limit), 0
    # Neighboring executions of a job share most values. Changing one message where they differ
    # and appending a copy takes a third to a half of the time of building each message.
    execution = JobExecution()
    page = message.executions
    overhead = _OVERHEAD_BYTES
    values: tuple[Any, ...] = (None,) * len(_VALUES)
    times: tuple[Any, ...] = (None,) * len(_TIMES)
    # The devices of the next executions that have the same values as `execution`.
    devices: list[bytes] = []
    left_over = False
    for count, (device_id, new_values, new_times) in enumerate(_executions(row), start=1):
        if new_values[_STATUS] is None:
            left_over = True
            break
        changed = count == 1 or new_times != times or new_values != values
        if changed:
            if devices:
                _append_copies(message, execution, devices)
                devices.clear()
            if new_values != values:
                _change_values(execution, values, new_values)
                overhead = _OVERHEAD_BYTES + execution.status_details.ByteSize()
                for index in _TEXTS:
                    if text := new_values[index]:
                        overhead += len(text.encode())
                elements = json_elements(new_values[_DETAILS] or "")
                values = new_values
            _change_times(execution, times, new_times)
            times = new_times
        device = device_id.encode()
        total_bytes += len(device) + overhead
        total_elements += elements
        is_full = total_bytes > max_bytes or total_elements > max_elements
        left_over = count > limit or (is_full and count > 1)
        if left_over:
            break
        if changed:
            execution.device_id = device_id
            page.add().CopyFrom(execution)
            bytes_since_yield += conversion_bytes(overhead, elements)
            if bytes_since_yield >= BYTES_PER_YIELD:
                bytes_since_yield = 0
                await yield_now()
        else:
            devices.append(device)
    if devices:
        _append_copies(message, execution, devices)
    return left_over


def _executions(row: Row) -> Iterable[tuple[str, tuple[Any, ...], tuple[Any, ...]]]:
    """The device, the _VALUES and the _TIMES of each execution. The columns are arrays."""
    if row["device_ids"] is None:
        return ()
    # A column without values can be NULL.
    nothing = (None,) * len(row["device_ids"])
    values = zip(*(row[column] or nothing for column in _VALUE_COLUMNS), strict=True)
    times = zip(*(row[column] or nothing for column in _TIME_COLUMNS), strict=True)
    return zip(row["device_ids"], values, times, strict=True)


def _change_values(execution: Any, old: tuple[Any, ...], new: tuple[Any, ...]) -> None:
    """Set the fields of _VALUES that differ."""
    for index, value in enumerate(new):
        if value == old[index]:
            continue
        name, convert = _CONVERSIONS[index]
        field = convert(value) if convert and value is not None else value
        if field is None:
            execution.ClearField(name)
        elif convert is from_json:
            getattr(execution, name).CopyFrom(field)
        else:
            setattr(execution, name, field)


def _change_times(execution: Any, old: tuple[Any, ...], new: tuple[Any, ...]) -> None:
    """Set the fields of _TIMES that differ."""
    for index, time in enumerate(new):
        if time != old[index]:
            if time is None:
                execution.ClearField(_TIMES[index])
            else:
                set_timestamp(getattr(execution, _TIMES[index]), time)


def _append_copies(
    message: Job | ListJobExecutionsResponse, execution: JobExecution, devices: list[bytes]
) -> None:
    """Append a copy of `execution` for each device.

    They are appended in wire format, which takes half the time of copying the message.
    """
    field = message.EXECUTIONS_FIELD_NUMBER
    execution.ClearField("device_id")
    other_fields = execution.SerializeToString()
    parts: list[bytes] = []
    for device in devices:
        parts += (_prefix(field, len(device), len(other_fields)), device, other_fields)
    message.MergeFromString(b"".join(parts))


@functools.lru_cache(maxsize=256)
def _prefix(field: int, device_size: int, other_size: int) -> bytes:
    """The bytes before the device_id of an encoded execution: tags (number << 3 | 2), lengths."""
    device_prefix = varint(JobExecution.DEVICE_ID_FIELD_NUMBER << 3 | 2) + varint(device_size)
    size = len(device_prefix) + device_size + other_size
    return varint(field << 3 | 2) + varint(size) + device_prefix
