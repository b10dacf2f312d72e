"""The targets of jobs, as parameters of clients."""

from collections.abc import Iterable
from typing import Any

from fleet.jobs.v1 import jobs_pb2 as pb


def target_fields(target_device_ids: Iterable[str] = (), **others: Any) -> dict[str, Any]:
    """Return the member of the oneof `target` that is given. `others` are fields of the request."""
    given = {name: value for name, value in others.items() if value}
    if device_ids := id_list(target_device_ids):
        given["target_device_ids"] = pb.DeviceIds(device_ids=device_ids)
    if len(given) > 1:
        raise ValueError(f"only one target is possible: {', '.join(given)}")
    return given


def id_list(ids: Iterable[str]) -> list[str]:
    """Return the IDs as a list. Raises TypeError for a single str: its characters are no IDs."""
    if isinstance(ids, str):
        raise TypeError(f"expected several ids, not the str {ids!r}")
    return list(ids)
