"""The devices: their labels, their time zones, and what they do with an execution."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from zlib import crc32

from tests.model import targets
from tests.model.targets import Term

ZONES = (
    *("UTC", "Europe/Berlin", "America/New_York", "America/Los_Angeles"),
    *("Asia/Tokyo", "Asia/Kolkata", "Australia/Sydney", "America/Sao_Paulo"),
)
RINGS = ("canary", "early", "late")
MODELS = ("m1", "m2")
FIRST_VERSION = "00"
"""The fact `version` of all devices when the year begins. Later ones are months."""

_SITES = 50

# What a device does instead of a report of its end.
HANGS = "hangs"
"""The device starts the execution and never reports on it."""
STAYS_OFFLINE = "stays offline"
"""The device does not start the execution."""

BRICKED_CODE = "BRICKED"
"""The failure code of a bad release."""
RETRIED_CODE = "NETWORK"
"""The failure code that the retry policies name."""


@dataclass(frozen=True)
class Device:
    """A device. Everything follows from its number."""

    device_id: str
    cohort: int
    site: int
    model: int
    ring: int
    """Index of the ring of the device, which is its stage in a rollout."""
    zone: str
    calls_itself: bool
    """Whether the device makes its own calls. A bridge calls for the others, in batches."""

    @property
    def labels(self) -> dict[str, str]:
        """The labels of the device in the directory."""
        return {
            "cohort": str(self.cohort),
            "site": str(self.site),
            "ring": RINGS[self.ring],
            "model": MODELS[self.model],
        }

    @cached_property
    def in_model(self) -> targets.Device:
        """The device as the model of selectors has it."""
        return targets.Device(self.device_id, frozenset(self.labels.items()))


@cache
def devices(count: int, cohorts: int) -> Sequence[Device]:
    """Return the first devices of each tenant."""
    return [device(number, cohorts) for number in range(count)]


def device(number: int, cohorts: int) -> Device:
    """Return a device by its number."""
    part = number % 20
    return Device(
        f"d{number:05}",
        number % cohorts,
        number % _SITES,
        number // 3 % len(MODELS),
        0 if part == 0 else 1 if part < 7 else 2,
        # Each cohort has devices of all zones.
        ZONES[number // cohorts % len(ZONES)],
        number // 7 % 10 == 3,
    )


class Directory:
    """The devices of a tenant that are registered now."""

    def __init__(self, all_devices: Iterable[Device]) -> None:
        self.by_id: dict[str, Device] = {}
        self.removed: set[str] = set()
        self.values: dict[str, dict[str, str]] = defaultdict(dict)
        """The label `enrolled` and the fact `version` of devices, with the keys of selectors."""
        self.changed: set[str] = set()
        """The devices whose values have changed, so that they can join continuous jobs."""
        self.unreported: dict[str, str] = {}
        """The versions that devices will report."""
        self._by_label: dict[tuple[str, int], list[Device]] = defaultdict(list)
        for each in all_devices:
            self.add(each)
            self.values[each.device_id]["fact.version"] = FIRST_VERSION

    def add(self, device: Device) -> None:
        """Add a device that is registered for the first time."""
        self.by_id[device.device_id] = device
        self._by_label["cohort", device.cohort].append(device)
        self._by_label["site", device.site].append(device)
        self._by_label["model", device.model].append(device)

    def remove(self, device_ids: Iterable[str]) -> None:
        """Remove devices, with their facts."""
        for device_id in device_ids:
            self.removed.add(device_id)
            self.values.pop(device_id, None)
            self.unreported.pop(device_id, None)

    def set_value(self, device_id: str, key: str, value: str) -> None:
        """Record an acknowledged label or fact."""
        self.values[device_id][key] = value
        self.changed.add(device_id)

    def versions(self) -> dict[str, str | None]:
        """Return the registered devices, and the version that each has reported."""
        known = self.by_id.keys() - self.removed
        return {device_id: self.values[device_id].get("fact.version") for device_id in known}

    def in_model(self, device_ids: Iterable[str]) -> tuple[targets.Device, ...]:
        """Return those of the devices that are registered, as the model of selectors has them."""
        return tuple(
            targets.Device(
                device_id,
                self.by_id[device_id].in_model.labels | self.values[device_id].items(),
            )
            for device_id in sorted({*device_ids} - self.removed)
        )

    def targeted(self, terms: Iterable[Term]) -> list[Device]:
        """Return the devices that match a selector."""
        return [self.by_id[each] for each in targets.matching(terms, self.in_model(self.by_id))]

    def matching(self, label: str, value: int) -> list[Device]:
        """Return the devices with a value of `cohort` or `site`, or with a model."""
        found = self._by_label[label, value]
        return [device for device in found if device.device_id not in self.removed]


def result(kind: str, job_id: str, device: Device, number: int, *, bad: bool) -> tuple[str, str]:
    """Return a status, HANGS or STAYS_OFFLINE for an attempt of a device, and a failure code.

    `bad` says that the release is bad. A repeated run has the same results.
    """
    draw = crc32(f"{job_id}/{device.device_id}/{number}".encode()) % 1000
    # A device that calls itself would get this execution again instead of the next one.
    can_be_stuck = not device.calls_itself
    if kind == "firmware":
        return _install(draw, device, number, can_be_stuck=can_be_stuck, bad=bad)
    if draw < 10 and can_be_stuck:
        return HANGS, ""
    if draw < 20 and can_be_stuck and kind in ("config", "verification"):
        return STAYS_OFFLINE, ""
    if draw < 40:
        return "FAILED", RETRIED_CODE if number == 1 else "INVALID"
    return "SUCCEEDED", ""


def _install(
    draw: int, device: Device, number: int, *, can_be_stuck: bool, bad: bool
) -> tuple[str, str]:
    if bad and device.ring == 0 and draw < 500:
        return "FAILED", BRICKED_CODE
    if number > 1:
        return ("FAILED", RETRIED_CODE) if draw < 300 else ("SUCCEEDED", "")
    if draw < 10 and can_be_stuck:
        return (STAYS_OFFLINE if draw < 5 else HANGS), ""
    if draw < 20:
        return "FAILED", "FLASH"
    if draw < 25:
        return "REJECTED", "LOW_BATTERY"
    if draw < 60:
        return "FAILED", RETRIED_CODE
    return "SUCCEEDED", ""
