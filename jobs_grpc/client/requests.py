"""Builds requests and documents from the parameters of a client's methods."""

from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from typing import Any, TypedDict, TypeVar

from fleet.jobs.v1 import jobs_pb2 as pb
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.message import Message
from google.protobuf.struct_pb2 import Struct
from google.protobuf.timestamp_pb2 import Timestamp

M = TypeVar("M", bound=Message)

# Above 2^53 a double, the only number of a Struct, cannot represent every integer.
_MAX_EXACT_INTEGER = 2**53

# Parameters that are not fields of a request. A pager sets the limit and the token for each page.
_OTHER_PARAMETERS = {"self", "page", "fields"}


class Page(TypedDict, total=False):
    """The parameters of each list that is read page by page."""

    page_size: int
    """The maximum number of items of a page. The default and the maximum depend on the list."""
    page_token: str
    """The next_page_token of an earlier list with the same filters; empty: the first page."""
    limit: int | None
    """The maximum number of items of all pages; None: all."""


class Target(TypedDict, total=False):
    """The targets of CreateJob and PreviewTarget: one of them is given."""

    target_device_id: str
    target_group_id: str
    target_all: bool
    target_selector: str
    target_device_ids: Iterable[str]
    target_failed_in: pb.FailedIn


class JobSettings(TypedDict, total=False):
    """The fields that CreateJob sets and UpdateJob can change."""

    in_progress_timeout_minutes: int | None
    rollout: pb.Rollout | None
    failure_criteria: Iterable[pb.FailureCriterion]
    labels: Mapping[str, str] | None
    description: str
    start_at: datetime | None
    start_windows: Iterable[pb.StartWindow]
    window_time_zone: str
    retry_policy: pb.RetryPolicy | None
    continuous: bool
    max_joins_per_hour: int | None


class NewJob(JobSettings, Target, total=False):
    """A target, settings, and fields that only CreateJob has."""

    expires_in_hours: int | None
    never_expires: bool
    validate_only: bool
    expected_target_digest: str
    priority: pb.Job.Priority.ValueType
    execution_events: bool
    replaces_job_id: str
    require_start_approval: bool


class EventFilter(TypedDict, total=False):
    """Which events ListEvents and WatchEvents return."""

    after_position: int | None
    from_time: datetime | None
    types: Iterable[str]
    job_id: str


def build_request(request_type: type[M], parameters: Mapping[str, Any]) -> M:
    """Return a request with the parameters of a method, its locals(), as fields.

    Call it before the method has other local variables. Adds the entries of `fields`. Leaves out
    empty targets. Raises TypeError for a field that the request does not have, and ValueError if
    two fields of a oneof are given.
    """
    parameters = {**parameters, **parameters.get("fields", {})}
    fields = {
        name: _convert(name, value)
        for name, value in parameters.items()
        if name not in _OTHER_PARAMETERS
    }
    descriptor = request_type.DESCRIPTOR
    if unknown := sorted(fields.keys() - descriptor.fields_by_name.keys()):
        raise TypeError(f"unexpected keyword arguments: {', '.join(unknown)}")
    given = {name: v for name, v in fields.items() if v or not name.startswith("target_")}
    for oneof in descriptor.oneofs:
        names = [field.name for field in oneof.fields if given.get(field.name) is not None]
        if len(names) > 1:
            raise ValueError(f"only one {oneof.name} is possible: {', '.join(names)}")
    return request_type(**given)


def _convert(name: str, value: Any) -> Any:
    if isinstance(value, datetime):
        return timestamp(value)
    return _CONVERTERS[name](value) if name in _CONVERTERS else value


def id_list(ids: Iterable[str]) -> list[str]:
    """Return the IDs as a list. Raises TypeError for a single str: its characters are no IDs."""
    if isinstance(ids, str):
        raise TypeError(f"expected several ids, not the str {ids!r}")
    return list(ids)


def timestamp(time: datetime) -> Timestamp:
    """Convert a time. Raises ValueError if it has no time zone."""
    if time.tzinfo is None:
        raise ValueError("a time needs a time zone")
    result = Timestamp()
    result.FromDatetime(time)
    return result


def struct(document: Mapping[str, Any] | None) -> Struct | None:
    """Convert a JSON object; None stays None, which leaves a field unset."""
    if document is None:
        return None
    result = Struct()
    result.update(document)
    return result


def params_struct(params: Mapping[str, Any] | None) -> Struct | None:
    """Convert document_params. Raises ValueError for an integer that could lose digits."""
    if path := _large_integer(params):
        raise ValueError(
            f"document_params{path} is an integer beyond ±2^53 and would lose digits;"
            " send it as a string"
        )
    return struct(params)


def _large_integer(value: Any) -> str | None:
    """Return the path of the first integer beyond ±2^53, such as ".a[0]"; None: there is none."""
    items: Iterable[tuple[str, Any]] = ()
    match value:
        case int() if abs(value) > _MAX_EXACT_INTEGER:
            return ""
        case Mapping():
            items = ((f".{key}", member) for key, member in value.items())
        case list() | tuple():
            items = ((f"[{index}]", element) for index, element in enumerate(value))
    for key, item in items:
        if (path := _large_integer(item)) is not None:
            return key + path
    return None


def _device_ids(ids: Iterable[str]) -> pb.DeviceIds | None:
    device_ids = id_list(ids)
    return pb.DeviceIds(device_ids=device_ids) if device_ids else None


_CONVERTERS: Mapping[str, Callable[[Any], Any]] = {
    "document_params": params_struct,
    "update_mask": lambda paths: FieldMask(paths=paths),
    "device_ids": id_list,
    "target_device_ids": _device_ids,
}
