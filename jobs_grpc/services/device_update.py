"""Checks of UpdateDevices, and its arguments for the database."""

import json
from collections import Counter
from dataclasses import dataclass, field

from fleet.jobs.v1 import fleet_pb2 as pb

from jobs_grpc.contract.field_rules import check, rules_of
from jobs_grpc.errors import InvalidField, Violation
from jobs_grpc.limits.fair_slots import YieldNow
from jobs_grpc.services.selectors import check_labels
from jobs_grpc.services.time_zones import check_time_zone
from jobs_grpc.services.validation import check_unique, raise_for_violations

# Devices that are checked between two calls of yield_now: about 0.5 ms, with 8 labels each.
_DEVICES_PER_YIELD = 50
# Checking this many groups takes as long as checking a device.
_GROUPS_PER_DEVICE = 40

_VALID_DEVICE = pb.Device(device_id="d")
_MAX_DEVICES = rules_of(pb.UpdateDevicesRequest, "devices").repeated.max_items


@dataclass(slots=True)
class DeviceChanges:
    """The arguments of update_devices.sql that differ between devices. None: no change."""

    device_ids: list[str]
    labels: list[str] | None
    time_zones: list[str] | None
    group_ids: list[str] | None
    label_counts: Counter[str] = field(init=False, default_factory=Counter)
    """The number of devices that set each label, by its key."""


async def device_changes(request: pb.UpdateDevicesRequest, yield_now: YieldNow) -> DeviceChanges:
    """Check a request and return what it changes. Raises InvalidField.

    Fields that update_mask does not name are ignored, but have the limits of the contract. Calls
    `yield_now` at times, so that other calls run.
    """
    # The devices are checked below, with calls of yield_now, unless there are too many.
    head = pb.UpdateDevicesRequest(
        devices=[_VALID_DEVICE] if request.devices else [],
        update_mask=request.update_mask if request.HasField("update_mask") else None,
        remove_labels=request.remove_labels,
    )
    raise_for_violations(check(request if len(request.devices) > _MAX_DEVICES else head))
    fields = {*request.update_mask.paths}
    raise_for_violations(_check_request(request, fields))
    changes = DeviceChanges(
        [device.device_id for device in request.devices],
        *([] if name in fields else None for name in ("labels", "time_zone", "group_ids")),
    )
    violations: list[Violation] = []
    checked = 0
    for index, device in enumerate(request.devices):
        path = f"devices[{index}]"
        violations += check(device, f"{path}.")
        if changes.labels is not None:
            violations += check_labels(device.labels, f"{path}.labels", of_device=True)
            violations += _check_not_removed(request, device, f"{path}.labels")
            changes.labels.append(json.dumps(dict(device.labels), ensure_ascii=False))
            changes.label_counts.update([*device.labels])
        if changes.time_zones is not None:
            violations += check_time_zone(device.time_zone, f"{path}.time_zone")
            changes.time_zones.append(device.time_zone)
        if changes.group_ids is not None:
            changes.group_ids.append(json.dumps([*device.group_ids], ensure_ascii=False))
        if len(violations) >= InvalidField.MAX_VIOLATIONS:
            break
        checked += 1 + len(device.group_ids) // _GROUPS_PER_DEVICE
        if checked >= _DEVICES_PER_YIELD:
            checked = 0
            await yield_now()
    raise_for_violations(violations)
    return changes


def _check_request(request: pb.UpdateDevicesRequest, fields: set[str]) -> list[Violation]:
    if not (fields or request.remove_labels or request.allow_missing):
        problem = "update_mask is required, unless remove_labels or allow_missing is set"
        return [Violation("update_mask", problem)]
    return check_unique(device.device_id for device in request.devices)


def _check_not_removed(
    request: pb.UpdateDevicesRequest, device: pb.Device, field: str
) -> list[Violation]:
    return [
        Violation(field, f"{field} sets {key}, which remove_labels removes")
        for key in request.remove_labels
        if key in device.labels
    ]
