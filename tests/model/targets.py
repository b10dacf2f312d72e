"""Which devices a selector matches: by sets of devices, without a parser."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeAlias

Term: TypeAlias = tuple[str, str, tuple[str, ...]]
"""A key, one of in, notin, exists and missing, and values."""


@dataclass(frozen=True)
class Device:
    """A device as selectors see it."""

    device_id: str
    labels: frozenset[tuple[str, str]] = frozenset()
    """And its facts, with the keys of selectors."""
    groups: frozenset[str] = frozenset()


def matching(selector: Iterable[Term], known: Iterable[Device]) -> list[str]:
    """The ids of the devices that match, in byte order."""
    by_id = {device.device_id: device for device in known}
    remaining = set(by_id)
    for key, operator, values in selector:
        with_key = {i for i, device in by_id.items() if _values(device, key)}
        with_value = {
            i for i, device in by_id.items() if not _values(device, key).isdisjoint(values)
        }
        remaining &= {
            "exists": with_key,
            "missing": set(by_id) - with_key,
            "in": with_value,
            "notin": set(by_id) - with_value,
        }[operator]
    return sorted(remaining, key=str.encode)


def _values(device: Device, key: str) -> frozenset[str]:
    if key == "group":
        return device.groups
    if key == "device_id":
        return frozenset({device.device_id})
    return frozenset(value for name, value in device.labels if name == key)
