"""Reads UpdateFacts: what devices report about themselves."""

import json
from collections.abc import Mapping
from dataclasses import dataclass

from fleet.jobs.v1 import device_jobs_pb2 as pb

from jobs_grpc.auth.principal import Principal
from jobs_grpc.contract.field_rules import check
from jobs_grpc.db.store import Row
from jobs_grpc.errors import DeviceNotFound, DeviceRequired, InvalidField, JobsError, Violation
from jobs_grpc.limits.fair_slots import YieldNow
from jobs_grpc.services.report_stream import item_error
from jobs_grpc.services.selectors import MAX_FACTS, check_facts
from jobs_grpc.services.validation import check_unique, raise_for_violations

# Devices that are checked between two calls of yield_now: about 0.5 ms, with 8 facts each.
_DEVICES_PER_YIELD = 50

# Maximum violations per device, to bound the response.
_MAX_VIOLATIONS = 2


@dataclass(slots=True)
class FactReport:
    """A valid request: the facts to store, and the errors of the devices that have one."""

    device_ids: list[str]
    """In the order of the request."""
    facts: dict[str, str]
    """Those of each valid device, as JSON."""
    errors: dict[str, JobsError]
    """By device."""
    has_devices: bool
    """The request has `devices`."""

    @classmethod
    async def read(
        cls, request: pb.UpdateFactsRequest, caller: Principal, yield_now: YieldNow
    ) -> "FactReport":
        """Check a request. Raises InvalidField or DeviceRequired if nothing of it may be stored.

        Calls `yield_now` at times, so that other calls run.
        """
        if not request.devices:
            if caller.device_id is None:
                raise DeviceRequired
            if not (request.facts or request.replace):
                problem = "facts is required, unless replace or devices is set"
                raise InvalidField([Violation("facts", problem)])
            raise_for_violations(check_facts(request.facts))
            device_id = caller.device_id
            return cls([device_id], {device_id: _json(request.facts)}, {}, has_devices=False)
        raise_for_violations(_check_devices(request))
        report = cls([device.device_id for device in request.devices], {}, {}, has_devices=True)
        for number, device in enumerate(request.devices, 1):
            violations = check(device) + check_facts(device.facts)
            if caller.device_id not in (None, device.device_id):
                problem = "device_id must be the ID of the calling device"
                violations.append(Violation("device_id", problem))
            if violations:
                report.errors[device.device_id] = InvalidField(violations[:_MAX_VIOLATIONS])
            else:
                report.facts[device.device_id] = _json(device.facts)
            if number % _DEVICES_PER_YIELD == 0:
                await yield_now()
        return report

    def add_refused(self, row: Row) -> None:
        """Add the errors of devices that update_facts.sql has not stored."""
        for device_id in row["missing_ids"]:
            self.errors[device_id] = DeviceNotFound(device_id)
        problem = f"facts must have at most {MAX_FACTS} keys, including the stored ones"
        for device_id in row["full_ids"]:
            self.errors[device_id] = InvalidField([Violation("facts", problem)])

    def response(self) -> pb.UpdateFactsResponse:
        """Return the response. Without `devices`, raises the error of the calling device."""
        if not self.has_devices:
            for error in self.errors.values():
                raise error
            return pb.UpdateFactsResponse()
        errors = map(self.errors.get, self.device_ids)
        return pb.UpdateFactsResponse(
            results=[
                pb.FactsResult(error=None if error is None else item_error(error))
                for error in errors
            ]
        )


def _check_devices(request: pb.UpdateFactsRequest) -> list[Violation]:
    """Check a request with several devices as a whole."""
    if violations := check(request):
        return violations
    if request.facts:
        return [Violation("devices", "devices must be empty if facts is set")]
    return check_unique(device.device_id for device in request.devices)


def _json(facts: Mapping[str, str]) -> str:
    return json.dumps(dict(facts), ensure_ascii=False)
