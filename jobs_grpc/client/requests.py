"""Builds requests from the parameters of a client's methods."""

from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from typing import Any, TypedDict, TypeVar

from fleet.jobs.v1 import jobs_pb2 as pb
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from jobs_grpc.client.documents import params_struct

M = TypeVar("M", bound=Message)

# Parameters that are not fields of a request. A pager sets the limit and the token for each page.
_OTHER_PARAMETERS = {"self", "page_size", "limit", "page_token", "target"}


class Target(TypedDict, total=False):
    """The targets of CreateJob and PreviewTarget: one of them is given."""

    target_device_id: str
    target_group_id: str
    target_all: bool
    target_selector: str
    target_device_ids: Iterable[str]
    target_failed_in: pb.FailedIn


def build_request(request_type: type[M], parameters: Mapping[str, Any]) -> M:
    """Return a request with the parameters of a method, its locals(), as fields.

    Call it before the method has other local variables. Raises TypeError for an unknown target, and
    ValueError if more than one is given: empty ones do not count.
    """
    target = parameters.get("target", {})
    if unknown := sorted(target.keys() - Target.__annotations__.keys()):
        raise TypeError(f"unexpected keyword arguments: {', '.join(unknown)}")
    parameters = {**parameters, **target}
    fields = {
        name: _convert(name, value)
        for name, value in parameters.items()
        if name not in _OTHER_PARAMETERS
    }
    targets = {name: value for name, value in fields.items() if name.startswith("target_")}
    given = {name: value for name, value in targets.items() if value}
    if len(given) > 1:
        raise ValueError(f"only one target is possible: {', '.join(given)}")
    others = {name: value for name, value in fields.items() if name not in targets}
    return request_type(**others, **given)


def _convert(name: str, value: Any) -> Any:
    if isinstance(value, datetime):
        return timestamp(value)
    convert = _CONVERTERS.get(name)
    return convert(value) if convert else value


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


def _device_ids(ids: Iterable[str]) -> pb.DeviceIds | None:
    device_ids = id_list(ids)
    return pb.DeviceIds(device_ids=device_ids) if device_ids else None


_CONVERTERS: Mapping[str, Callable[[Any], Any]] = {
    "document_params": params_struct,
    "update_mask": lambda paths: FieldMask(paths=paths),
    "device_ids": id_list,
    "target_device_ids": _device_ids,
}
