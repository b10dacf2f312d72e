"""Large requests let other calls run while they are checked."""

import grpc
import pytest
from fleet.jobs.v1 import fleet_pb2 as pb
from fleet.jobs.v1.jobs_pb2 import DeviceIds
from google.protobuf.field_mask_pb2 import FieldMask

from jobs_grpc.errors import InvalidField
from jobs_grpc.limits.fair_slots import FairSlots
from jobs_grpc.services.device_update import device_changes
from tests.services.test_page_pauses import Pauses
from tests.support.callers import Operator


def request(devices: int, groups: int) -> pb.UpdateDevicesRequest:
    group_ids = [f"g{n}" for n in range(groups)]
    return pb.UpdateDevicesRequest(
        devices=[pb.Device(device_id=f"d{n}", group_ids=group_ids) for n in range(devices)],
        update_mask=FieldMask(paths=["group_ids"]),
    )


@pytest.mark.parametrize(
    ("devices", "groups", "pauses"), [(49, 1, 0), (1000, 1, 20), (1000, 40, 40), (80, 1000, 40)]
)
async def test_check_pauses_by_devices_and_groups(devices: int, groups: int, pauses: int) -> None:
    counted = Pauses()

    changes = await device_changes(request(devices, groups), counted.pause)

    assert len(changes.device_ids) == devices
    assert counted.count == pauses


async def test_invalid_groups_of_any_device_are_reported() -> None:
    invalid = request(60, 2)
    invalid.devices[0].group_ids[1] = invalid.devices[59].group_ids[0] = ""

    with pytest.raises(InvalidField) as error:
        await device_changes(invalid, Pauses().pause)

    assert [violation.field for violation in error.value.field_violations] == [
        "devices[0].group_ids[1]",
        "devices[59].group_ids[0]",
    ]


@pytest.mark.parametrize(("devices", "pauses"), [(1000, 0), (1001, 1)])
async def test_list_of_devices_is_checked_and_converted_with_a_pause_between(
    operator: Operator, monkeypatch: pytest.MonkeyPatch, devices: int, pauses: int
) -> None:
    tenants = []

    async def yield_now(_: FairSlots, tenant_id: str) -> None:
        tenants.append(tenant_id)

    monkeypatch.setattr(FairSlots, "yield_now", yield_now)
    targets = DeviceIds(device_ids=[f"d{n}" for n in range(devices)])

    with pytest.raises(grpc.aio.AioRpcError):
        await operator.create(target_device_ids=targets)

    assert len(tenants) == pauses
